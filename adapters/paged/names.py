"""What names an engine's blocks in the store.

vLLM chains its own block hashes: each covers a block's tokens, all before it, the LoRA adapter,
multimodal inputs and ``cache_salt``. It does not cover what the bytes mean: model, revision, types,
layout. That is the *namespace*, which is hashed into every key, so that KV of one model is never
found by another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from greencache.client.messages import KEY_BYTES

__all__ = ["block_keys", "namespace_of"]


def namespace_of(identity: Mapping[str, object]) -> bytes:
    """Digest, 16 bytes, of all that tells one engine's KV from another's."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


def block_keys(
    namespace: bytes, hashes: Sequence[bytes], per_block: int, *, first: int = 0
) -> list[bytes]:
    """Keys of the store's blocks from the ``first`` on.

    Parameters
    ----------
    namespace:
        Of `namespace_of`.
    hashes:
        The engine's own, one for each of its blocks from the start of the prompt.
    per_block:
        Of the engine's blocks in one of the store's. As they are chained, the last one's hash
        stands for all before it.
    first:
        Place of the first block that is asked for.
    """
    ends = range((first + 1) * per_block - 1, len(hashes), per_block)
    return [hashlib.sha256(namespace + bytes(hashes[end])).digest()[:KEY_BYTES] for end in ends]
