"""Records: blocks as they stand on a server that others share, each saying what it is.

A record is a header, the block's bytes and a checksum of both:

======  =====  ==============================================================
offset  bytes  what
======  =====  ==============================================================
0       4      ``GCKV``
4       2      version of the format, little-endian like all numbers
6       2      zero
8       8      bytes of the block
16      16     namespace: digest of the caller's namespace and the block's size
32      16     key of the block
48      n      the block
48 + n  16     xxh3_128 of everything before
======  =====  ==============================================================

The name of a record holds a prefix, the namespace and the key. So blocks of two models or sizes
never have the same name, and a record that stands under another name than its own is found out. The
key is the name's hash tag, in braces: on a cluster all names that begin alike stand on one node.
"""

from __future__ import annotations

import hashlib
import struct

import xxhash

from greencache.blocks import KEY_BYTES
from greencache.errors import InputError

__all__ = ["CHECKSUM_BYTES", "HEADER_BYTES", "Checksum", "RecordFormat"]

MAGIC = b"GCKV"
VERSION = 1
_HEADER = struct.Struct("<4sHHQ16s16s")
HEADER_BYTES = _HEADER.size
CHECKSUM_BYTES = 16

Checksum = xxhash.xxh3_128


class RecordFormat:
    """Names and headers of the records of one namespace.

    Parameters
    ----------
    block_bytes:
        Bytes of a block.
    namespace:
        What the blocks belong to: `greencache.blocks.KVLayout.namespace`.
    prefix:
        What all names begin with.

    Attributes
    ----------
    record_bytes:
        Bytes of a record.
    """

    def __init__(self, block_bytes: int, namespace: bytes, prefix: str) -> None:
        if not prefix or any(mark in prefix for mark in "{}"):
            raise InputError(f"a prefix of names is not empty and has no braces, not {prefix!r}")
        self.block_bytes = block_bytes
        self.record_bytes = HEADER_BYTES + block_bytes + CHECKSUM_BYTES
        size = block_bytes.to_bytes(8, "little")
        self.namespace = hashlib.sha256(size + namespace).digest()[:KEY_BYTES]
        self._front = f"{prefix}:{self.namespace.hex()}:".encode() + b"{"

    def name(self, key: bytes) -> bytes:
        """Under which a block's record is found.

        Raises
        ------
        InputError
            If the key has another length than keys have.
        """
        if len(key) != KEY_BYTES:
            raise InputError(f"keys of blocks have {KEY_BYTES} bytes, not {len(key)}")
        return self._front + key.hex().encode() + b"}"

    def draft_name(self, key: bytes, writer: bytes) -> bytes:
        """Under which it stands until it is committed: on the same node of a cluster."""
        return self.name(key) + b":" + writer

    def header(self, key: bytes) -> bytes:
        """What the record of this block begins with."""
        return _HEADER.pack(MAGIC, VERSION, 0, self.block_bytes, self.namespace, key)
