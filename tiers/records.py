"""Records: blocks as they stand on a server that others share, each saying what it is.

A block is kept in *parts* of 4 MiB, the last one shorter, each a record of its own: a header, the
part's bytes and a checksum of both.

======  =====  ==============================================================
offset  bytes  what
======  =====  ==============================================================
0       4      ``GCKV``
4       2      version of the format, little-endian like all numbers
6       2      which part it is, from 0
8       8      bytes of the block
16      16     namespace: digest of the caller's namespace and the block's size
32      16     key of the block
48      8      writer: a number of its own for each time that a block is written
56      n      the part
56 + n  16     xxh3_128 of everything before
======  =====  ==============================================================

The name of a record holds a prefix, the namespace, the key, and after the first part its number. So
blocks of two models or sizes never have the same name, and a record that stands under another name
than its own is found out, as are parts of a block that two hosts wrote at once. The key is the
name's hash tag, in braces: on a cluster all names of a block stand on one node.

*Why parts.* Allocators give the memory of large values back to the system at once (jemalloc from 8
MiB on, glibc from 32 MiB on), so that the server meets a page fault for each 4 KiB of the next one.
"""

from __future__ import annotations

import hashlib
import struct

import xxhash

from greencache.blocks import KEY_BYTES
from greencache.errors import InputError

__all__ = [
    "CHECKSUM_BYTES",
    "HEADER_BYTES",
    "PART_BYTES",
    "WRITER_BYTES",
    "Checksum",
    "RecordFormat",
]

MAGIC = b"GCKV"
VERSION = 2
WRITER_BYTES = 8
_HEADER = struct.Struct(f"<4sHHQ16s16s{WRITER_BYTES}s")
HEADER_BYTES = _HEADER.size
CHECKSUM_BYTES = 16
PART_BYTES = 4 * 2**20

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
    parts:
        Records that a block is kept in.
    stored_bytes:
        What they take, all together.
    """

    def __init__(self, block_bytes: int, namespace: bytes, prefix: str) -> None:
        if not prefix or any(mark in prefix for mark in "{}"):
            raise InputError(f"a prefix of names is not empty and has no braces, not {prefix!r}")
        self.block_bytes = block_bytes
        self.parts = max(1, -(-block_bytes // PART_BYTES))
        self.stored_bytes = block_bytes + self.parts * (HEADER_BYTES + CHECKSUM_BYTES)
        size = block_bytes.to_bytes(8, "little")
        self.namespace = hashlib.sha256(size + namespace).digest()[:KEY_BYTES]
        self._front = f"{prefix}:{self.namespace.hex()}:".encode() + b"{"

    def names(self, key: bytes) -> list[bytes]:
        """Under which a block's records are found.

        Raises
        ------
        InputError
            If the key has another length than keys have.
        """
        if len(key) != KEY_BYTES:
            raise InputError(f"keys of blocks have {KEY_BYTES} bytes, not {len(key)}")
        first = self._front + key.hex().encode() + b"}"
        return [first, *(b"%b/%d" % (first, part) for part in range(1, self.parts))]

    def draft_names(self, key: bytes, writer: bytes) -> list[bytes]:
        """Under which they stand until they are committed: on the same node of a cluster."""
        return [name + b":" + writer.hex().encode() for name in self.names(key)]

    def range_of(self, part: int) -> tuple[int, int]:
        """The bytes of a block that a part is: the first, and the one after the last."""
        return part * PART_BYTES, min((part + 1) * PART_BYTES, self.block_bytes)

    def record_bytes(self, part: int) -> int:
        """Bytes of a part's record."""
        begin, end = self.range_of(part)
        return HEADER_BYTES + end - begin + CHECKSUM_BYTES

    def header(self, key: bytes, part: int, writer: bytes) -> bytes:
        """What a record begins with."""
        return _HEADER.pack(MAGIC, VERSION, part, self.block_bytes, self.namespace, key, writer)

    def writer_of(self, header: bytes | bytearray, key: bytes, part: int) -> bytes | None:
        """Who wrote a record; None if it is not this part of this block."""
        writer = bytes(header[-WRITER_BYTES:])
        return writer if header == self.header(key, part, writer) else None
