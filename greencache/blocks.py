"""Blocks of KV cache: how large they are, what names them, and which engine they belong to.

A *block* is the KV of ``block_tokens`` consecutive tokens, of all layers, KV groups and
tensor-parallel ranks. Its *key* is chained: it names the block and the whole prefix before it, so
equal keys mean equal prefixes, and a lookup walks a request's keys until the first one missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from greencache.errors import InputError, UnknownNameError

__all__ = ["DTYPE_BYTES", "KEY_BYTES", "Attention", "KVGroup", "KVLayout", "block_keys"]

KEY_BYTES = 16
"""Bytes of a block key: 128 bits of SHA-256, so a collision among 2**40 blocks has odds 2**-49."""

DTYPE_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
"""Bytes of one element of each weight or KV type."""


class Attention(StrEnum):
    """What a KV group keeps for a token."""

    FULL = "full"
    SLIDING = "sliding"
    MLA = "mla"


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Layers that keep KV of one shape.

    Parameters
    ----------
    layers:
        Number of layers in the group.
    kv_heads, head_dim:
        Shape of K and of V for one token and layer. For MLA, ``kv_heads`` is 1 and ``head_dim``
        the latent width (compressed KV and rotary part together), kept once, not twice.
    attention:
        Full attention, a sliding window, or multi-head latent attention.
    window_tokens:
        The window of sliding attention; None otherwise.
    """

    layers: int
    kv_heads: int
    head_dim: int
    attention: Attention = Attention.FULL
    window_tokens: int | None = None

    def __post_init__(self) -> None:
        if min(self.layers, self.kv_heads, self.head_dim) < 1:
            raise InputError("a KV group needs at least one layer, KV head and dimension")
        if (self.attention is Attention.SLIDING) != (self.window_tokens is not None):
            raise InputError("a KV group has window_tokens if and only if its attention is sliding")

    @property
    def elements_per_token(self) -> int:
        """KV elements that the group keeps for one token, over all its layers."""
        halves = 1 if self.attention is Attention.MLA else 2
        return self.layers * halves * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Everything that two engines must share for one to read KV that the other wrote.

    Parameters
    ----------
    model, revision:
        The model's fingerprint: its name and the exact revision of its weights.
    dtype:
        Type of the KV elements, a key of `DTYPE_BYTES`.
    groups:
        The KV groups, in the engine's order.
    block_tokens:
        Tokens to a block.
    ranks:
        Tensor-parallel ranks over which each block is sharded.
    """

    model: str
    revision: str
    dtype: str
    groups: tuple[KVGroup, ...]
    block_tokens: int = 256
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise UnknownNameError("KV dtype", self.dtype, DTYPE_BYTES)
        if self.block_tokens < 1 or self.ranks < 1 or not self.groups:
            raise InputError("a KV layout needs block_tokens >= 1, ranks >= 1 and a KV group")

    @property
    def bytes_per_token(self) -> float:
        """Bytes of KV that one token takes, over all groups and ranks."""
        return self.block_bytes / self.block_tokens

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, over all its shards."""
        return sum(self.shard_bytes(group) for group in self.groups) * self.ranks

    def shard_bytes(self, group: KVGroup) -> int:
        """Bytes of one shard: what one rank keeps of one block for ``group``, rounded up.

        KV heads are split evenly over the ranks; where there are more ranks than heads (or with
        MLA, which has no heads to split) each rank keeps a whole copy.
        """
        split = 1 if group.attention is Attention.MLA else min(self.ranks, group.kv_heads)
        elements = self.block_tokens * group.elements_per_token
        return -(-int(elements * DTYPE_BYTES[self.dtype]) // split)

    @property
    def namespace(self) -> bytes:
        """Digest of the whole layout: KV of another model, type or shape is under other keys."""
        return hashlib.sha256(repr(self).encode()).digest()[:KEY_BYTES]


def block_keys(layout: KVLayout, tokens: Sequence[int], *, tenant_salt: bytes = b"") -> list[bytes]:
    """Keys of the full blocks of a prompt, in order; a partial last block has none.

    ``key_i = SHA-256(namespace, len(salt), salt, key_{i-1}, tokens of block i)``, cut to
    `KEY_BYTES`. Tenants with different salts share no key and cannot guess each other's.

    Raises
    ------
    InputError
        If a token id is not a whole number that fits in 32 unsigned bits.
    """
    ids = np.asarray(tokens)
    if ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= 2**32):
        raise InputError("token ids must be whole numbers in 0..2**32-1")
    raw = ids.astype("<u4").tobytes()
    seed = layout.namespace + len(tenant_salt).to_bytes(8, "little") + tenant_salt
    key = bytes(KEY_BYTES)
    step = 4 * layout.block_tokens
    keys: list[bytes] = []
    for start in range(0, len(raw) - step + 1, step):
        key = hashlib.sha256(seed + key + raw[start : start + step]).digest()[:KEY_BYTES]
        keys.append(key)
    return keys
