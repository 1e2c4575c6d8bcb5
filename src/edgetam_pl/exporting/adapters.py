"""The model's own verbs with flat tensors of fixed shape: four programs that together are the video loop.

Nothing is computed here that the model does not compute; what is added is what fixed shapes need: unused prompt slots
and empty memory slots are hidden by a bias of -1e4 on their logits (fp16 holds it; minus infinity and -1e9 it does not),
ages become one-hot rows, and choices become products instead of indexing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.manifest import RuntimeSpec, read_yaml
from edgetam_pl.exporting.parts import UNUSED_LABEL, Feature, Part
from edgetam_pl.inference.fuse import fuse
from edgetam_pl.model.attention import Keys, LandmarkAttention, WeightedSum
from edgetam_pl.model.image_encoder import FPN
from edgetam_pl.model.mask_decoder import NUM_MASKS, Candidates
from edgetam_pl.model.memory_attention import NUM_AGES
from edgetam_pl.model.memory_encoder import MASK_OFFSET, MASK_SCALE
from edgetam_pl.model.position import Rotation, sine_of_age
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.types import ABSENT_LOGIT, GIVEN_LOGIT

HIDDEN = -1e4
"""Added to the logits of keys that are not there."""


def prepared(model: TrackAnything, *, fused_attention: bool = False) -> TrackAnything:
    """A copy of the model, simplified for export: equal outputs, fewer and friendlier operations.

    In fp32 on the CPU, in eval mode; RepViT's branches and BatchNorms merged, the 1x1 convolutions behind F4 and F8 folded,
    rotations half-split, and attention spelt out unless `fused_attention`.

    Raises:
        ValueError: the model cannot be exported with fixed shapes.
    """
    if any(isinstance(module, LandmarkAttention) for module in model.modules()):
        raise ValueError(
            "cross_attention=landmarks computes differently with one memory and with several, which programs of fixed shape "
            "cannot; export a model with cross_attention=full."
        )
    model = fuse(copy.deepcopy(model).float().cpu())
    if not fused_attention:
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, WeightedSum):
                    setattr(module, name, DecomposedAttention())
    return model.eval()


class DecomposedAttention(nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v in steps: Core ML's fused operation has been reported wrong (docs/export.md)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `WeightedSum`. The scale goes on the queries, which are fewer than the scores."""
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, N, K)
        return (scores if bias is None else scores + bias).softmax(dim=-1) @ v


class Adapter(nn.Module):
    """A program over named flat tensors."""

    def __init__(self, model: TrackAnything, inputs: Sequence[Feature], loop: RuntimeSpec) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        self.model = model
        self.eval()

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return {feature.name: tensor for feature, tensor in zip(self.inputs, tensors, strict=True)}

    def decode(
        self, image: Tensor, tokens: Tensor, dense: Tensor, given: dict[str, Tensor], bias: Tensor | None
    ) -> Candidates:
        """One pass of the mask decoder for one object."""
        return self.model.mask_decoder(
            image,
            self.model.prompt_encoder.image_pos,
            tokens,
            dense,
            f4=given.get("feats_s0"),
            f8=given.get("feats_s1"),
            bias=bias,
        )

    def pointers(self, tokens: Tensor, presence: Tensor) -> Tensor:
        """Pointers (1, M, C) of tokens (1, M, C), replaced by the no-pointer where presence (1, 1) is not positive."""
        shown = (presence > 0).float()[:, :, None]  # (1, 1, 1)
        decoder = self.model.mask_decoder
        return shown * decoder.pointer_head(tokens) + (1 - shown) * decoder.no_pointer

    def remember(self, f16: Tensor, evidence: Tensor, presence: Tensor | None) -> Tensor:
        """Memory tokens (1, N, D) of a mask (1, 1, S, S) in -10 ... 10."""
        encoder = self.model.memory_encoder
        memory = encoder.out_proj(encoder.fuser(encoder.pix_feat_proj(f16) + encoder.mask_downsampler(evidence)))
        if encoder.occluded is not None:
            assert presence is not None
            absent = (presence <= 0).float()[:, :, None, None]  # (1, 1, 1, 1)
            memory = memory + absent * encoder.occluded.view(1, -1, 1, 1)
        return self.model.compressor(memory)

    def enlarge(self, logits: Tensor) -> Tensor:
        size = self.model.image_size
        return F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)


class EncodeImage(Adapter):
    """Eq. 1 from raw pixels: per-channel normalisation inside, because Core ML's image input has one scale for all three."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: TrackAnything, inputs: Sequence[Feature], loop: RuntimeSpec) -> None:
        super().__init__(model, inputs, loop)
        self.register_buffer("scale", 1 / (255 * model.std)[None])  # (1, 3, 1, 1)
        self.register_buffer("shift", (-model.mean / model.std)[None])

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        features = self.model.image_encoder(self.named(tensors)["image"] * self.scale + self.shift)
        embedding = features.f16 + self.model.memory_attention.no_memory.view(1, -1, 1, 1)
        finer = tuple(level for level in (features.f4, features.f8) if level is not None)
        return (embedding, features.f16, *finer)


class DecodePrompts(Adapter):
    """Eq. 3 with prompts: all outputs of the decoder, nothing chosen yet. Masks are raw, whatever the presence."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = self.candidates(tensors)
        return found.logits, found.iou, self.pointers(found.tokens, found.presence), found.presence

    def candidates(self, tensors: Sequence[Tensor]) -> Candidates:
        """The decoder's pass itself, with the tokens from which pointers are made."""
        given = self.named(tensors)
        encoder = self.model.prompt_encoder
        points = encoder.embed_points(given["points"], given["labels"])  # (1, P + 1, C)
        unused = (given["labels"] == UNUSED_LABEL).float() * HIDDEN  # (1, P)
        bias = F.pad(unused, (0, 1))  # the padding point that SAM appends is always there
        has_mask = given["has_mask"].view(1, 1, 1, 1)
        dense = has_mask * encoder.embed_mask(given["mask_input"]) + (1 - has_mask) * encoder.embed_mask(None)
        return self.decode(given["image_embedding"], points, dense, given, bias)


class EncodeMemory(Adapter):
    """Eq. 4 to 6 on given logits."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = self.named(tensors)
        logits = self.enlarge(given["mask_logits"])
        hard = given["binarize"].view(1, 1, 1, 1)
        share = hard * (logits > 0).float() + (1 - hard) * logits.sigmoid()
        return (self.remember(given["vision_features"], share * MASK_SCALE + MASK_OFFSET, given.get("obj_score")),)


class StepOnce(Adapter):
    """Eq. 2 to 6 for a frame without prompts: attend to the padded bank, decode, memorize."""

    cos: Tensor
    sin: Tensor
    ages: Tensor
    two_paddings: Tensor

    def __init__(self, model: TrackAnything, inputs: Sequence[Feature], loop: RuntimeSpec) -> None:
        super().__init__(model, inputs, loop)
        attention = model.memory_attention
        self.per_pointer = attention.dim // attention.memory_dim
        self.num_memories, self.num_tokens = loop.num_memories, attention.num_tokens
        self.span = float(max(loop.num_pointers - 1, 1))  # ages of pointers are shares of the reach of the bank
        non_spatial = loop.num_pointers * self.per_pointer  # pointer keys are not rotated
        self.register_buffer("cos", F.pad(attention.key_cos.repeat(loop.num_memories, 1), (0, 0, 0, non_spatial), value=1.0))
        self.register_buffer("sin", F.pad(attention.key_sin.repeat(loop.num_memories, 1), (0, 0, 0, non_spatial)))
        # row r of the age code belongs to age r + 1; prompted frames, age 0, take the last row (SAM 2: maskmem_tpos_enc)
        self.register_buffer("ages", torch.tensor([[[*range(1, NUM_AGES), 0]]], dtype=torch.int32))  # (1, 1, 7)
        self.register_buffer("two_paddings", model.prompt_encoder.embed_nothing(1).clone())  # (1, 2, C)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = self.named(tensors)
        f_m, found = self.attend(given)
        choice = found.iou[:, 1:].argmax(dim=1, keepdim=True)  # tracked frames choose among masks 1 ... 3
        return self.finish(given["vision_features"], f_m, found, choice, found.presence)

    def attend(self, given: dict[str, Tensor]) -> tuple[Tensor, Candidates]:
        """F_M (1, C, h, w), and the decoder's candidates for it."""
        f_m = self.model.memory_attention.blend(given["vision_features"], self.keys(given), self.bias(given))
        return f_m, self.decode(f_m, self.two_paddings, self.model.prompt_encoder.embed_mask(None), given, None)

    def finish(self, f16: Tensor, f_m: Tensor, found: Candidates, choice: Tensor, presence: Tensor) -> tuple[Tensor, ...]:
        """All outputs, given the chosen one of masks 1 ... 3 (1, 1) and the presence that decides on absence (1, 1)."""
        iou = found.iou[:, 1:]
        chosen = (choice == torch.arange(NUM_MASKS - 1)).float()[:, None]  # (1, 1, 3) one-hot
        mask = (chosen @ found.logits[:, 1:].flatten(2)).unflatten(2, found.logits.shape[-2:])  # (1, 1, S/4, S/4)
        shown = (presence > 0).float()[:, :, None, None]
        mask = shown * mask + (1 - shown) * ABSENT_LOGIT
        pointer = self.pointers(chosen @ found.tokens[:, 1:], presence)[:, 0]  # (1, C)
        evidence = self.enlarge(mask).sigmoid() * MASK_SCALE + MASK_OFFSET
        memory = self.remember(f16, evidence, presence)
        return mask, (chosen[:, 0] * iou).sum(dim=1, keepdim=True), found.presence, pointer, memory, f_m

    @torch.no_grad()
    def alternatives(self, tensors: Sequence[Tensor], *, tie: float, presence_tie: float) -> list[tuple[Tensor, ...]]:
        """All outputs that rounding might lead to: torch's own first, then those of other candidates with nearly equal IoU,
        and of the other verdict on a presence near zero."""
        given = self.named(tensors)
        f_m, found = self.attend(given)
        iou, presence = found.iou[0, 1:], found.presence
        best = iou.argmax().item()
        choices = [best] + [i for i in range(NUM_MASKS - 1) if i != best and iou.max() - iou[i] <= tie]
        verdicts = [presence, -presence] if presence.abs().item() <= presence_tie else [presence]
        return [
            self.finish(given["vision_features"], f_m, found, torch.tensor([[choice]]), verdict)
            for choice in choices
            for verdict in verdicts
        ]

    def keys(self, given: dict[str, Tensor]) -> Keys:
        """The padded bank as keys: memories with their positions and ages, then pointers cut into tokens."""
        attention = self.model.memory_attention
        memory, age = given["memory"], given["memory_age"]  # (1, R, N, D), (1, R)
        one_hot = (age[:, :, None] == self.ages).float()  # (1, R, 7)
        code = (one_hot @ attention.age.flatten(1))[:, :, None]  # (1, R, 1, D)
        positions = (self.model.compressor.pos[:, None] + code).flatten(1, 2)  # (1, R N, D)
        pointers = given["obj_ptrs"].reshape(1, -1, attention.memory_dim)  # (1, P C/D, D)
        return Keys(
            torch.cat((memory.flatten(1, 2), pointers), dim=1),
            torch.cat((positions, self.pointer_positions(given, pointers)), dim=1),
            Rotation(self.cos, self.sin),
            self.num_memories,
        )

    def pointer_positions(self, given: dict[str, Tensor], pointers: Tensor) -> Tensor:
        project = self.model.memory_attention.pointer_age
        if project is None:
            return torch.zeros_like(pointers)
        code = project(sine_of_age(given["obj_ptr_age"][0] / self.span, self.model.memory_attention.dim))  # (P, D)
        return code[None, :, None].expand(-1, -1, self.per_pointer, -1).flatten(1, 2)  # (1, P C/D, D)

    def bias(self, given: dict[str, Tensor]) -> Tensor:
        """(1, R N + P C/D): hides the keys of empty slots."""
        empty = (given["memory_age"] < 0).float()[:, :, None].expand(-1, -1, self.num_tokens).flatten(1)
        absent = (1 - given["obj_ptr_valid"])[:, :, None].expand(-1, -1, self.per_pointer).flatten(1)
        return torch.cat((empty, absent), dim=1) * HIDDEN


def loop_of(model: TrackAnything, cfg: ExportConfig) -> RuntimeSpec:
    """The numbers a client needs to run the programs of this model."""
    attention, decoder = model.memory_attention, model.mask_decoder
    return RuntimeSpec(
        size=model.image_size,
        dim=attention.dim,
        memory_dim=attention.memory_dim,
        tokens=attention.num_tokens,
        memory_grid=attention.key_grid,
        num_memories=cfg.num_memories,
        num_pointers=cfg.num_pointers,
        recent_memories=NUM_AGES - 1,
        recent_pointers=cfg.num_pointers - 1,
        prompt_slots=cfg.prompt_slots,
        high_res=isinstance(model.image_encoder.neck, FPN),
        pointer_ages=attention.pointer_age is not None,
        memory_needs_presence=model.memory_encoder.occluded is not None,
        mask_kernel=tuple(tuple(float(x) for x in row) for row in decoder.shrink.weight.detach()[0, 0]),
        mask_bias=float(decoder.shrink.bias.detach()) if decoder.shrink.bias is not None else 0.0,
        absent_pointer=tuple(float(x) for x in decoder.no_pointer.detach()[0]),
        absent_logit=ABSENT_LOGIT,
        given_logit=GIVEN_LOGIT,
    )


def flatten(model: TrackAnything, cfg: ExportConfig) -> tuple[Part, ...]:
    """The four programs of a `prepared` model, in the order in which a frame meets them.

    Raises:
        ValueError: slots that make no sense.
    """
    for name, least in (("prompt_slots", 2), ("num_memories", 1), ("num_pointers", 1)):
        if getattr(cfg, name) < least:
            raise ValueError(f"{name} is {getattr(cfg, name)}; it must be at least {least}.")
    loop = loop_of(model, cfg)
    parts = []
    for role, contract in CONTRACT.items():
        inputs, outputs = (_features(contract[side], loop) for side in ("inputs", "outputs"))
        adapter = ADAPTERS[role](model, inputs, loop)
        name = cfg.name + "".join(word.capitalize() for word in role.split("_"))
        parts.append(Part(name, role, adapter, inputs, outputs, contract["purpose"], contract["compute_units"]))
    return tuple(parts)


CONTRACT = read_yaml("parts")
"""By role: the inputs and outputs of each program."""

ADAPTERS: dict[str, type[Adapter]] = {
    "image_encoder": EncodeImage,
    "prompt_decoder": DecodePrompts,
    "memory_encoder": EncodeMemory,
    "track_step": StepOnce,
}


def _features(listed: Mapping[str, Sequence[str]], loop: RuntimeSpec) -> tuple[Feature, ...]:
    """The tensors of one side of a contract, with the sizes of this model."""
    letters = {"S": loop.size, "C": loop.dim, "N": loop.tokens, "D": loop.memory_dim}
    letters |= {"R": loop.num_memories, "P": loop.num_pointers, "K": loop.prompt_slots}

    def side(text: str) -> int:
        letter, _, divisor = text.partition("/")
        return letters[letter] // int(divisor or 1) if letter in letters else int(text)

    found = []
    for name, (kind, shape, meaning, *needs) in listed.items():
        if all(getattr(loop, need) for need in needs):
            found.append(Feature(name, tuple(side(text) for text in str(shape).split()), kind, meaning))
    return tuple(found)
