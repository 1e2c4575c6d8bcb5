"""The model's own verbs with flat tensors of fixed shape: four programs that together are the video loop.

Nothing is computed here that the model does not compute; what is added is what fixed shapes need: unused prompt slots
and empty memory slots are hidden by a bias of -1e4 on their logits (fp16 holds it; minus infinity and -1e9 it does not),
ages become one-hot rows, and choices become products instead of indexing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetam_pl.config import ExportConfig
from edgetam_pl.export.manifest import RuntimeSpec
from edgetam_pl.export.parts import UNUSED_LABEL, Feature, Part
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


class _Adapter(nn.Module):
    """A program over named flat tensors."""

    def __init__(self, model: TrackAnything, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.model = model
        self.eval()

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.names, tensors, strict=True))

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


class EncodeImage(_Adapter):
    """Eq. 1 from raw pixels: per-channel normalisation inside, because Core ML's image input has one scale for all three."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: TrackAnything, names: Sequence[str]) -> None:
        super().__init__(model, names)
        self.register_buffer("scale", 1 / (255 * model.std)[None])  # (1, 3, 1, 1)
        self.register_buffer("shift", (-model.mean / model.std)[None])

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        features = self.model.image_encoder(self.named(tensors)["image"] * self.scale + self.shift)
        embedding = features.f16 + self.model.memory_attention.no_memory.view(1, -1, 1, 1)
        finer = tuple(level for level in (features.f4, features.f8) if level is not None)
        return (embedding, features.f16, *finer)


class DecodePrompts(_Adapter):
    """Eq. 3 with prompts: everything the decoder has to say, nothing chosen yet. Masks are raw, whatever the presence."""

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


class EncodeMemory(_Adapter):
    """Eq. 4 to 6 on given logits."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = self.named(tensors)
        logits = self.enlarge(given["mask_logits"])
        hard = given["binarize"].view(1, 1, 1, 1)
        share = hard * (logits > 0).float() + (1 - hard) * logits.sigmoid()
        return (self.remember(given["vision_features"], share * MASK_SCALE + MASK_OFFSET, given.get("obj_score")),)


class StepOnce(_Adapter):
    """Eq. 2 to 6 for a frame about which nobody says anything: attend to the padded bank, decode, memorize."""

    cos: Tensor
    sin: Tensor
    ages: Tensor
    two_paddings: Tensor

    def __init__(
        self, model: TrackAnything, names: Sequence[str], *, num_memories: int, num_pointers: int, span: int
    ) -> None:
        super().__init__(model, names)
        attention = model.memory_attention
        self.per_pointer = attention.dim // attention.memory_dim
        self.num_memories, self.num_tokens = num_memories, attention.num_tokens
        self.span = float(span)
        non_spatial = num_pointers * self.per_pointer  # pointer keys are not rotated
        self.register_buffer("cos", F.pad(attention.key_cos.repeat(num_memories, 1), (0, 0, 0, non_spatial), value=1.0))
        self.register_buffer("sin", F.pad(attention.key_sin.repeat(num_memories, 1), (0, 0, 0, non_spatial)))
        # row r of the age code belongs to age r + 1; prompted frames, age 0, take the last row (SAM 2: maskmem_tpos_enc)
        self.register_buffer("ages", torch.tensor([[[*range(1, NUM_AGES), 0]]], dtype=torch.int32))  # (1, 1, 7)
        self.register_buffer("two_paddings", model.prompt_encoder.embed_nothing(1).clone())  # (1, 2, C)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = self.named(tensors)
        f_m, found = self.attend(given)
        choice = found.iou[:, 1:].argmax(dim=1, keepdim=True)  # tracked frames choose among masks 1 ... 3
        return self.finish(given["vision_features"], f_m, found, choice, found.presence)

    def attend(self, given: dict[str, Tensor]) -> tuple[Tensor, Candidates]:
        """F_M (1, C, h, w), and what the decoder says of it."""
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
        """All outputs that rounding might lead to: the other candidates of nearly equal IoU, the other verdict near zero."""
        given = self.named(tensors)
        f_m, found = self.attend(given)
        iou, presence = found.iou[0, 1:], found.presence
        choices = [i for i in range(NUM_MASKS - 1) if iou.max() - iou[i] <= tie]
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
    """The numbers a client needs to play the programs of this model."""
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
    for name, value, least in (("prompt_slots", cfg.prompt_slots, 2), ("num_memories", cfg.num_memories, 1),
                               ("num_pointers", cfg.num_pointers, 1)):  # fmt: skip
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
    loop = loop_of(model, cfg)
    return (_image_encoder(model, loop, cfg), _prompt_decoder(model, loop, cfg), _memory_encoder(model, loop, cfg),
            _track_step(model, loop, cfg))  # fmt: skip


def _image_encoder(model: TrackAnything, loop: RuntimeSpec, cfg: ExportConfig) -> Part:
    inputs = (
        Feature("image", (1, 3, loop.size, loop.size), "image", "RGB frame, stretched to the input square, 0 ... 255"),
    )
    f = loop.feature
    outputs = (
        Feature("image_embedding", (1, loop.dim, f, f), "float", "Features with the no-memory embedding: for first prompts"),
        Feature("vision_features", (1, loop.dim, f, f), "float", "Features as they are: for TrackStep and MemoryEncoder"),
        *_high_res(loop),
    )
    purpose = "Features of one frame, for all its objects. Normalisation is inside."
    return Part(
        f"{cfg.name}ImageEncoder", "image_encoder", EncodeImage(model, _names(inputs)), inputs, outputs, purpose, "all"
    )


def _prompt_decoder(model: TrackAnything, loop: RuntimeSpec, cfg: ExportConfig) -> Part:
    slots, low = loop.prompt_slots, loop.low
    f = loop.feature
    inputs = (
        Feature(
            "image_embedding", (1, loop.dim, f, f), "float", "From ImageEncoder, or from TrackStep when clicks correct it"
        ),
        *_high_res(loop),
        Feature("points", (1, slots, 2), "float32", "(x, y) in pixels of the stretched frame"),
        Feature(
            "labels", (1, slots), "int32", "1 foreground, 0 background, 2 and 3 box corners, -1 padding, -2 unused slot"
        ),
        Feature("mask_input", (1, 1, low, low), "float", "Previous logits, clamped to +-32; read only if has_mask is 1"),
        Feature("has_mask", (1,), "float", "1 or 0"),
    )
    outputs = (
        Feature(
            "low_res_masks", (1, NUM_MASKS, low, low), "float", "Logits: mask 0 single, masks 1 ... 3 candidates; not gated"
        ),
        Feature("iou_scores", (1, NUM_MASKS), "float", "Predicted IoU of each mask"),
        Feature("obj_ptrs", (1, NUM_MASKS, loop.dim), "float", "Object pointer of each mask"),
        Feature("obj_score", (1, 1), "float", "Presence: above 0 the object is visible"),
    )
    purpose = "Masks from points, boxes and earlier masks. All candidates are returned; the manifest says how to choose."
    module = DecodePrompts(model, _names(inputs))
    return Part(f"{cfg.name}PromptDecoder", "prompt_decoder", module, inputs, outputs, purpose)


def _memory_encoder(model: TrackAnything, loop: RuntimeSpec, cfg: ExportConfig) -> Part:
    f, low = loop.feature, loop.low
    inputs = [
        Feature("vision_features", (1, loop.dim, f, f), "float", "From ImageEncoder"),
        Feature("mask_logits", (1, 1, low, low), "float", "The answer's logits"),
        Feature("binarize", (1,), "float", "1: every pixel counts fully (SAM 2's demo, on prompted frames); else 0"),
    ]
    if loop.memory_needs_presence:
        inputs.append(Feature("obj_score", (1, 1), "float", "Presence of the answer"))
    outputs = (Feature("memory", (1, loop.tokens, loop.memory_dim), "float", "What the bank keeps of a prompted frame"),)
    purpose = "The memory of a prompted or corrected frame."
    module = EncodeMemory(model, _names(inputs))
    return Part(f"{cfg.name}MemoryEncoder", "memory_encoder", module, tuple(inputs), outputs, purpose)


def _track_step(model: TrackAnything, loop: RuntimeSpec, cfg: ExportConfig) -> Part:
    f, low, slots, pointers = loop.feature, loop.low, loop.num_memories, loop.num_pointers
    inputs = [
        Feature("vision_features", (1, loop.dim, f, f), "float", "From ImageEncoder"),
        *_high_res(loop),
        Feature("memory", (1, slots, loop.tokens, loop.memory_dim), "float", "The bank's memory slots, in any order"),
        Feature("memory_age", (1, slots), "int32", "Of each slot: 0 prompted frame, 1 ... 6 frames ago, -1 empty"),
        Feature("obj_ptrs", (1, pointers, loop.dim), "float", "The bank's pointer slots, in any order"),
        Feature("obj_ptr_valid", (1, pointers), "float", "Of each pointer slot: 1 or 0"),
    ]
    if loop.pointer_ages:
        inputs.append(Feature("obj_ptr_age", (1, pointers), "float32", "Of each pointer slot: signed distance in frames"))
    outputs = (
        Feature("low_res_mask", (1, 1, low, low), "float", "Logits of the chosen mask"),
        Feature("iou_score", (1, 1), "float", "Its predicted IoU"),
        Feature("obj_score", (1, 1), "float", "Presence: above 0 the object is visible"),
        Feature("obj_ptr", (1, loop.dim), "float", "Object pointer, for the bank"),
        Feature("memory_out", (1, loop.tokens, loop.memory_dim), "float", "Memory of this frame, for the bank"),
        Feature("image_embedding", (1, loop.dim, f, f), "float", "Features that remember: for PromptDecoder, to correct"),
    )
    purpose = "One tracked frame of one object: attend to the bank, decode, memorize."
    span = max(loop.num_pointers - 1, 1)
    module = StepOnce(model, _names(inputs), num_memories=slots, num_pointers=pointers, span=span)
    return Part(f"{cfg.name}TrackStep", "track_step", module, tuple(inputs), outputs, purpose)


def _high_res(loop: RuntimeSpec) -> tuple[Feature, ...]:
    if not loop.high_res:
        return ()
    return (
        Feature(
            "feats_s0", (1, loop.dim // 8, loop.size // 4, loop.size // 4), "float", "Features at S/4, from ImageEncoder"
        ),
        Feature(
            "feats_s1", (1, loop.dim // 4, loop.size // 8, loop.size // 8), "float", "Features at S/8, from ImageEncoder"
        ),
    )


def _names(features: Sequence[Feature]) -> tuple[str, ...]:
    return tuple(feature.name for feature in features)
