"""``Manifest``: the record on disk of which block stands in which slot.

A file of frames that is only ever appended to. Its header says what the slots are like; each frame
after it is one batch of records, and either all of it holds or none: a frame's checksum covers the
checksum before it, back to the header. So reading stops at the first frame that was torn, that is
of another file, or that stood at another place, and what holds is a prefix of what was appended. A
slot's latest record says what is in it.

When the file is full it is written anew with what holds, beside the old one, synced, and put in its
place. Both together never take more than `manifest_bytes`, which the tier takes out of its
capacity, and all of it is set aside beforehand: appending does not fail because others filled the
disk. A manifest that was read is never appended to either: opening writes it anew.

A record may reach the disk before the bytes that it names, and bytes may be overwritten though the
record that frees their slot is lost: then they do not match the record's checksum.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from greencache.blocks import KEY_BYTES
from greencache.errors import StorageError, TierClosedError, TierError
from greencache.tiers.files import Files, OpenFile, read_fully, reported, write_fully

__all__ = [
    "BYTES_OF_SLOT",
    "MANIFEST",
    "RECORD",
    "Geometry",
    "Manifest",
    "freed",
    "manifest_bytes",
    "read_manifest",
    "stored",
]

MANIFEST = "manifest"
NEW_MANIFEST = "manifest.new"

VERSION = 1
MAGIC = b"GCblocks"
CHECKSUM_BYTES = 16  # xxh3_128

RECORD = np.dtype(
    [
        ("key", f"V{KEY_BYTES}"),
        ("parent", f"V{KEY_BYTES}"),  # the block before it in its prefix; zeros if there is none
        ("checksum", f"V{CHECKSUM_BYTES}"),  # xxh3_128 of its bytes
        ("slot", "<i4"),
        ("held", "<i4"),  # 1 if the block stands there, 0 if the slot was freed
    ]
)
"""What a frame says of a slot."""

BYTES_OF_SLOT = RECORD.itemsize + np.dtype(np.int64).itemsize
"""Memory that a manifest takes for each slot: its record, and when it was written."""

_HEADER = struct.Struct("<8sIIQQQQ16s")
"""Magic, version, bytes of a record, of a block, of a slot, slots to an extent, generation,
namespace; its checksum follows. All versions keep this layout."""
HEADER_BYTES = _HEADER.size + CHECKSUM_BYTES

_FRAME = struct.Struct("<II")
"""Magic and number of records; its checksum follows, then the records."""
_FRAME_MAGIC = 0x6D724647
FRAME_BYTES = _FRAME.size + CHECKSUM_BYTES

_PAGE_BYTES = 4096
_MOST_SPARE_BYTES = 2**20
_SPARE_SHARE = 256

Records = NDArray[np.void]

_log = logging.getLogger("greencache.tiers")


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the slots are like that a manifest is about.

    Parameters
    ----------
    block_bytes, stride_bytes:
        Bytes of a block, and from one slot to the next.
    slots_per_extent:
        Slots to a file.
    namespace:
        Digest of 16 bytes of whatever two engines must share to read each other's blocks.
    """

    block_bytes: int
    stride_bytes: int
    slots_per_extent: int
    namespace: bytes = bytes(KEY_BYTES)

    def header(self, generation: int) -> bytes:
        """The first bytes of a manifest."""
        fields = _HEADER.pack(
            MAGIC,
            VERSION,
            RECORD.itemsize,
            self.block_bytes,
            self.stride_bytes,
            self.slots_per_extent,
            generation,
            self.namespace,
        )
        return fields + xxhash.xxh3_128_digest(fields)


def stored(
    slots: NDArray[np.int32],
    keys: Sequence[bytes],
    parents: Sequence[bytes],
    checksums: Sequence[bytes],
) -> Records:
    """Records of blocks that stand in ``slots``."""
    made = freed(slots)
    made["held"] = 1
    made["key"] = np.frombuffer(b"".join(keys), f"V{KEY_BYTES}")
    made["parent"] = np.frombuffer(b"".join(parents), f"V{KEY_BYTES}")
    made["checksum"] = np.frombuffer(b"".join(checksums), f"V{CHECKSUM_BYTES}")
    return made


def freed(slots: NDArray[np.integer[Any]]) -> Records:
    """Records of slots that no block stands in."""
    made = np.zeros(len(slots), RECORD)
    made["slot"] = slots
    return made


def _generation_bytes(slots: int, stride_bytes: int) -> int:
    """Room of one manifest file: a record of each slot, as many again to be appended, and more.

    A tier of few slots has a part of what its blocks take besides, so that its file, too, is not
    full and written anew at every turn.
    """
    spare = min(_MOST_SPARE_BYTES, slots * stride_bytes // _SPARE_SHARE)
    needed = HEADER_BYTES + 2 * (FRAME_BYTES + slots * RECORD.itemsize) + spare
    return -(-needed // _PAGE_BYTES) * _PAGE_BYTES


def manifest_bytes(slots: int, stride_bytes: int) -> int:
    """Most disk space that the manifest of a tier of so many slots ever takes."""
    return 2 * _generation_bytes(slots, stride_bytes)


def _frame(before: bytes, batch: Records) -> tuple[bytes, bytes]:
    """A frame of records that follows one with the checksum ``before``; and its own checksum."""
    head, body = _FRAME.pack(_FRAME_MAGIC, len(batch)), batch.tobytes()
    checksum = _frame_checksum(before, head, body)
    return head + checksum + body, checksum


def _frame_checksum(before: bytes, head: bytes, body: bytes | memoryview) -> bytes:
    hashed = xxhash.xxh3_128(before)
    hashed.update(head)
    hashed.update(body)
    return hashed.digest()


def read_manifest(files: Files, geometry: Geometry) -> tuple[int, Records]:
    """Read what the manifest in a directory says.

    Returns
    -------
    generation, records
        Of each block that stands in a slot, the latest at the end. Generation 0 and no records if
        there is no manifest, or if its header is damaged.

    Raises
    ------
    TierError
        If it is of another version or about other slots.
    StorageError
        If it cannot be read.
    """
    if MANIFEST not in files.names():
        return 0, np.zeros(0, RECORD)
    with reported(f"read {files.path / MANIFEST}"):
        file = files.open(MANIFEST)
        try:
            raw = np.empty(file.size(), np.uint8)
            read_fully(file, [raw], 0)
        finally:
            file.close()
    return _parse(raw.data, files, geometry)


def _parse(raw: memoryview, files: Files, geometry: Geometry) -> tuple[int, Records]:
    header = bytes(raw[:HEADER_BYTES])
    checksum = header[_HEADER.size :]
    if checksum != xxhash.xxh3_128_digest(header[: _HEADER.size]) or len(header) < HEADER_BYTES:
        _log.warning("%s is damaged at its start: its tier starts empty", files.path / MANIFEST)
        return 0, np.zeros(0, RECORD)
    generation = _check_header(header, files, geometry)
    batches = [np.zeros(0, RECORD)]
    at = HEADER_BYTES
    while at + FRAME_BYTES <= len(raw):
        magic, count = _FRAME.unpack_from(raw, at)
        end = at + FRAME_BYTES + count * RECORD.itemsize
        if magic != _FRAME_MAGIC or end > len(raw):
            break
        body = raw[at + FRAME_BYTES : end]
        found = bytes(raw[at + _FRAME.size : at + FRAME_BYTES])
        if found != _frame_checksum(checksum, bytes(raw[at : at + _FRAME.size]), body):
            break
        batches.append(np.frombuffer(body, RECORD))
        checksum, at = found, end
    return generation, _latest(np.concatenate(batches))


def _check_header(header: bytes, files: Files, geometry: Geometry) -> int:
    """Generation of a manifest; raises `TierError` unless it is about such slots."""
    fields = _HEADER.unpack_from(header)
    magic, version, record_bytes = fields[:3]
    here = f"{files.path} holds a tier"
    remedy = "name another directory, or remove this one to start empty"
    if (magic, version, record_bytes) != (MAGIC, VERSION, RECORD.itemsize):
        raise TierError(f"{here} of format {version}, and this reads format {VERSION}: {remedy}")
    found = Geometry(fields[3], fields[4], fields[5], fields[7])
    if found.namespace != geometry.namespace:
        raise TierError(f"{here} of another model, dtype or KV layout: {remedy}")
    if found != geometry:
        raise TierError(
            f"{here} of blocks of {found.block_bytes:,} bytes, {found.slots_per_extent} slots to a"
            f" file, and {geometry.block_bytes:,} and {geometry.slots_per_extent} are asked for:"
            f" {remedy}"
        )
    return int(fields[6])


def _latest(appended: Records) -> Records:
    """The last record of each slot, if it says that a block stands there, in order."""
    _, from_end = np.unique(appended["slot"][::-1], return_index=True)
    last = np.sort(len(appended) - 1 - from_end)
    kept = appended[last]
    return kept[(kept["held"] == 1) & (kept["slot"] >= 0)]


class Manifest:
    """The manifest of an open tier; its methods may be called by several threads.

    Parameters
    ----------
    files:
        The tier's directory.
    geometry:
        What its slots are like.
    generation:
        That of the manifest there; this one is the next.
    held:
        What holds, the latest at the end.
    slots:
        Slots that the tier may back: what its size is computed from.

    Raises
    ------
    StorageError
        If it cannot be written.
    """

    def __init__(
        self, files: Files, geometry: Geometry, generation: int, held: Records, slots: int
    ) -> None:
        self._files, self._geometry = files, geometry
        self._generation = generation
        self._slots = slots
        self._file: OpenFile | None = None
        self._appending = threading.Lock()
        self._syncing = threading.Lock()  # taken after the other, if both are
        self._unsynced = False
        self._unsynced_name = False
        self.of_slot = np.zeros(0, RECORD)
        """The latest record of each slot."""
        self._order = np.zeros(0, np.int64)
        self._appended = 0
        self._end = self._room = 0
        self._checksum = b""
        self._note(held)
        with self._appending:
            self._write_anew()

    def append(self, batch: Records) -> None:
        """Add records, all or none; they outlast the process at once, the power after `sync`.

        Raises
        ------
        StorageError
            If they cannot be written; then nothing has changed.
        """
        with self._appending:
            before = self.of_slot, self._order, self._appended
            frame, checksum = _frame(self._checksum, batch)
            if self._end + len(frame) > self._room:
                self.of_slot, self._order = self.of_slot.copy(), self._order.copy()
                self._note(batch)
                try:
                    self._write_anew()
                except StorageError:
                    self.of_slot, self._order, self._appended = before
                    raise
                return
            with self._reported("append to"):
                write_fully(self._opened(), [np.frombuffer(frame, np.uint8)], self._end)
            self._unsynced = True
            self._end += len(frame)
            self._checksum = checksum
            self._note(batch)

    def sync(self) -> None:
        """Make all that was appended outlast a loss of power.

        Raises
        ------
        StorageError
            If that failed.
        """
        with self._syncing, self._reported("sync"):
            if self._unsynced_name:
                self._files.sync()
                self._unsynced_name = False
            if self._file is not None and self._unsynced:
                self._unsynced = False  # what is appended from here on may not be in it
                try:
                    self._file.sync()
                except OSError:
                    self._unsynced = True
                    raise

    def resize(self, slots: int) -> None:
        """Follow the tier's size: the file is made anew with room for that many slots.

        Raises
        ------
        StorageError
            If it cannot be written; the one there is kept.
        """
        with self._appending:
            self._opened()
            before, self._slots = self._slots, slots
            try:
                self._write_anew()
            except StorageError:
                self._slots = before
                raise

    def close(self) -> None:
        """Close the file; nothing can be appended any more."""
        with self._appending, self._syncing:
            if self._file is not None:
                self._file.close()
                self._file = None

    def recorded(self, slots: NDArray[np.int32]) -> NDArray[np.int32]:
        """Those of ``slots`` that have a block by the latest record."""
        known = slots[slots < len(self.of_slot)]
        return known[self.of_slot["held"][known] == 1]

    def held_slots(self) -> NDArray[np.bool_]:
        """Which slots, from the first on, have a block by the latest record."""
        return np.asarray(self.of_slot["held"] == 1)

    def _note(self, batch: Records) -> None:
        """Take records into `of_slot`; the array is replaced, so that it can be put back."""
        slots = batch["slot"]
        have = len(self.of_slot)
        if len(slots) and int(slots.max()) >= have:
            more = max(int(slots.max()) + 1, 2 * have) - have
            self.of_slot = np.concatenate([self.of_slot, np.zeros(more, RECORD)])
            self._order = np.concatenate([self._order, np.zeros(more, np.int64)])
        self.of_slot[slots] = batch
        self._order[slots] = np.arange(self._appended, self._appended + len(batch))
        self._appended += len(batch)

    def _write_anew(self) -> None:
        """Put a file of what holds in place of the one there."""
        held = np.flatnonzero(self.held_slots())
        snapshot = self.of_slot[held[np.argsort(self._order[held])]]
        header = self._geometry.header(self._generation + 1)
        frame, checksum = _frame(header[_HEADER.size :], snapshot)
        slots = max(self._slots, len(held))
        room = _generation_bytes(slots, self._geometry.stride_bytes)
        with self._reported("write"):
            file = self._files.open(NEW_MANIFEST, create=True)
            try:
                file.truncate(0)
                file.allocate(0, room)
                write_fully(file, [np.frombuffer(header + frame, np.uint8)], 0)
                file.sync()
                self._files.rename(NEW_MANIFEST, MANIFEST)
            except OSError:
                file.close()
                with suppress(OSError):
                    self._files.unlink(NEW_MANIFEST)
                raise
        with self._syncing:
            # Until the name is synced a loss of power may bring the old file back, with all that
            # was flushed to it.
            old, self._file = self._file, file
            self._unsynced, self._unsynced_name = False, True
        self._generation += 1
        self._end, self._room, self._checksum = len(header) + len(frame), room, checksum
        if old is not None:
            try:
                old.close()
            except OSError as fault:  # all that it says is in the new one, which is synced
                _log.warning("%s was replaced; closing it: %s", self._files.path / MANIFEST, fault)

    def _opened(self) -> OpenFile:
        if self._file is None:
            raise TierClosedError(f"the manifest in {self._files.path} is closed")
        return self._file

    def _reported(self, doing: str) -> AbstractContextManager[None]:
        return reported(f"{doing} {self._files.path / MANIFEST}")
