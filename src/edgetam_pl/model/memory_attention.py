"""A, memory attention: Eq. 2, F_M = A(F16, M_1 ... M_T).

`gather` turns what the bank recalls into keys; it is Python over a list of varying length. `blend` attends; it sees
tensors alone, so it is what gets compiled or exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetam_pl.model.attention import Attention, CrossAttention, Keys, LandmarkAttention
from edgetam_pl.model.position import Rotation, rotation_table, sine_map, sine_of_age
from edgetam_pl.types import Recall

NUM_AGES = 7
"""Rows of the learned age code: six recent slots, and one for prompted frames (T in the paper)."""

POSITION_SCALE = 0.1
"""Weight of the sine map on the queries (SAM 2 release: pos_enc_at_input)."""


class MemoryBlock(nn.Module):
    """Self-attention on the image, cross-attention to memory, feed-forward; each after a norm, each added."""

    def __init__(self, dim: int, *, ffn: int, cross_attention: CrossAttention, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, inner=dim, key_dim=dim, dropout=dropout)
        self.cross_attention = cross_attention
        self.ffn_in = nn.Linear(dim, ffn)
        self.ffn_out = nn.Linear(ffn, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Keys, rotation: Rotation, bias: Tensor | None) -> Tensor:
        """x (1 or O, N, C) -> (O, N, C). An image shared by all objects stays one row until it meets their memories."""
        y = self.norm1(x)
        x = x + self.dropout(self.self_attention(y, y, y, rotation=(rotation, rotation)))
        x = x + self.dropout(self.cross_attention.read(self.norm2(x), keys, rotation, bias))
        return x + self.dropout(self._feed_forward(self.norm3(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.ffn_out(self.dropout(F.relu(self.ffn_in(x))))


class MemoryAttention(nn.Module):
    """Conditions image features on what is remembered.

    Args:
        dim: C, width of the image features.
        memory_dim: D, width of a memory token.
        grid: (h, w) of the image features.
        key_grid: (h, w) of the memory tokens that have a place.
        non_spatial: memory tokens without a place; they come first.
        num_blocks: blocks (EdgeTAM: 2, SAM 2: 4).
        ffn: hidden width of the feed-forward.
        cross_attention: full | landmarks | landmarks_key.
        pointer_age: give pointers the signed sine of their age (SAM 2.1) instead of zeros.
        dropout: training only.
        cross_attention_bias_init: initial bias of the cross-attentions' queries and keys. Equal vectors turned by the
            rotation agree most where their places agree, so a positive value starts the attention near its own place.
    """

    def __init__(
        self,
        dim: int,
        memory_dim: int,
        *,
        grid: tuple[int, int],
        key_grid: tuple[int, int],
        non_spatial: int,
        num_blocks: int,
        ffn: int,
        cross_attention: str = "full",
        pointer_age: bool = False,
        dropout: float = 0.1,
        cross_attention_bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim, self.memory_dim = dim, memory_dim
        self.key_grid = key_grid
        self.num_tokens = non_spatial + key_grid[0] * key_grid[1]

        def cross() -> CrossAttention:
            if cross_attention == "full":
                return CrossAttention(dim, key_dim=memory_dim, dropout=dropout)
            on_keys = cross_attention == "landmarks_key"
            return LandmarkAttention(dim, key_dim=memory_dim, grid=grid, offset_on_keys=on_keys, dropout=dropout)

        self.blocks = nn.ModuleList(
            MemoryBlock(dim, ffn=ffn, cross_attention=cross(), dropout=dropout) for _ in range(num_blocks)
        )
        if cross_attention_bias_init:
            for block in self.blocks:
                assert isinstance(block, MemoryBlock)
                nn.init.constant_(block.cross_attention.q_proj.bias, cross_attention_bias_init)
                nn.init.constant_(block.cross_attention.k_proj.bias, cross_attention_bias_init)
        self.norm = nn.LayerNorm(dim)
        self.age = nn.Parameter(torch.empty(NUM_AGES, 1, 1, memory_dim))
        self.no_memory = nn.Parameter(torch.empty(1, 1, dim))
        # In every released checkpoint, in no computation: kept so that files load and save key for key.
        self.no_memory_pos = nn.Parameter(torch.empty(1, 1, dim), requires_grad=False)
        for embedding in (self.age, self.no_memory, self.no_memory_pos):
            nn.init.trunc_normal_(embedding, std=0.02)
        self.pointer_age = nn.Linear(dim, memory_dim) if pointer_age else None

        queries, keys = rotation_table(grid, dim), rotation_table(key_grid, dim, non_spatial=non_spatial)
        self.register_buffer("pos", sine_map(*grid, dim).flatten(1).T.contiguous() * POSITION_SCALE, persistent=False)
        self.register_buffer("query_cos", queries.cos, persistent=False)
        self.register_buffer("query_sin", queries.sin, persistent=False)
        self.register_buffer("key_cos", keys.cos, persistent=False)
        self.register_buffer("key_sin", keys.sin, persistent=False)

    pos: Tensor  # (h w, C)
    query_cos: Tensor  # (h w, C/2)
    query_sin: Tensor
    key_cos: Tensor  # (N, C/2), of one memory
    key_sin: Tensor

    def forward(self, f16: Tensor, recall: Recall) -> Tensor:
        """f16 (1 or O, C, h, w) -> F_M (O, C, h, w). With no frame recalled: f16 plus the no-memory embedding."""
        if not recall.frames:
            return f16 + self.no_memory.view(1, -1, 1, 1)
        return self.blend(f16, self.gather(recall))

    def gather(self, recall: Recall) -> Keys:
        """The keys of everything recalled, in order, pointers last.

        Raises:
            ValueError: a memory is older than there are learned ages, or was made by a differently built model.
        """
        tokens: list[Tensor] = []
        positions: list[Tensor] = []
        for age, memory in recall.frames:
            if not 0 <= age < NUM_AGES:
                raise ValueError(
                    f"A memory of age {age} was recalled; learned ages are 0 to {NUM_AGES - 1}. Lower num_memories."
                )
            if memory.grid != self.key_grid or memory.tokens.shape[1] != self.num_tokens:
                raise ValueError(
                    f"A memory has {memory.tokens.shape[1]} tokens, its grid is {memory.grid}; this model reads "
                    f"{self.num_tokens} tokens on {self.key_grid}. Recall memories that the same model wrote."
                )
            tokens.append(memory.tokens)
            # prompted frames (age 0) take the last row, t-1 the first one (SAM 2 release: maskmem_tpos_enc)
            positions.append((memory.pos + self.age[age - 1]).expand(memory.tokens.shape[0], -1, -1))
        if recall.pointers:
            tokens.append(self._pointer_tokens(recall))
            positions.append(self._pointer_positions(recall, tokens[-1]))
        num_frames, num_pointer_tokens = len(recall.frames), self._per_pointer * len(recall.pointers)
        return Keys(
            torch.cat(tokens, dim=1),
            torch.cat(positions, dim=1),
            Rotation(
                F.pad(self.key_cos.repeat(num_frames, 1), (0, 0, 0, num_pointer_tokens), value=1.0),
                F.pad(self.key_sin.repeat(num_frames, 1), (0, 0, 0, num_pointer_tokens)),
            ),
            num_frames,
        )

    def blend(self, f16: Tensor, keys: Keys, bias: Tensor | None = None) -> Tensor:
        """f16 (1 or O, C, h, w) attends to the keys -> (O, C, h, w).

        Args:
            bias: (1 or O, K) added to the logits of each key; -1e4 hides a key, so that a bank of fixed size may have
                empty places.
        """
        x = f16.flatten(2).transpose(1, 2) + self.pos  # (O, h w, C)
        rotation = Rotation(self.query_cos, self.query_sin)
        for block in self.blocks:
            x = block(x, keys, rotation, bias)
        return self.norm(x).transpose(1, 2).unflatten(2, f16.shape[-2:])  # (O, C, h, w)

    @property
    def _per_pointer(self) -> int:
        return self.dim // self.memory_dim

    def _pointer_tokens(self, recall: Recall) -> Tensor:
        """Each pointer cut into C/D tokens: (O, P C/D, D)."""
        return torch.cat([pointer.unflatten(1, (self._per_pointer, -1)) for _, pointer in recall.pointers], dim=1)

    def _pointer_positions(self, recall: Recall, tokens: Tensor) -> Tensor:
        if self.pointer_age is None:
            return torch.zeros_like(tokens)
        ages = torch.tensor([age / recall.span for age, _ in recall.pointers], device=tokens.device)
        positions = self.pointer_age(sine_of_age(ages, self.dim))  # (P, D)
        return positions.repeat_interleave(self._per_pointer, dim=0).expand(tokens.shape[0], -1, -1)
