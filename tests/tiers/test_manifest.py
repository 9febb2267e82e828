"""The manifest: whatever is torn off or mixed up, what is read was appended, from the start on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from greencache.errors import StorageError, TierError
from greencache.tiers.files import Directory
from greencache.tiers.manifest import (
    FRAME_BYTES,
    HEADER_BYTES,
    MANIFEST,
    RECORD,
    Geometry,
    Manifest,
    Records,
    freed,
    manifest_bytes,
    read_manifest,
    stored,
)
from tests.tiers.disks import FaultyDisk, failing

GEOMETRY = Geometry(4096, 4096, 64, b"n" * 16)
SLOTS = 32


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    disk = FaultyDisk(tmp_path / "tier")
    yield disk
    disk.close()


def blocks(*slots: int, version: int = 0) -> Records:
    """Records of blocks in slots, each with bytes of its own."""
    names = [b"%08d%08d" % (version, slot) for slot in slots]
    return stored(np.array(slots, np.int32), names, [bytes(16)] * len(slots), names[::-1])


def new(disk: Directory, held: Records | None = None, slots: int = SLOTS) -> Manifest:
    return Manifest(disk, GEOMETRY, 0, np.zeros(0, RECORD) if held is None else held, slots)


def read(disk: Directory) -> list[tuple[int, bytes]]:
    """Slot and key of each block that the manifest has."""
    _, found = read_manifest(disk, GEOMETRY)
    return list(zip(found["slot"].tolist(), found["key"].tolist(), strict=True))


def named(batch: Records) -> list[tuple[int, bytes]]:
    return list(zip(batch["slot"].tolist(), batch["key"].tolist(), strict=True))


def test_what_was_appended_is_read_with_the_latest_of_each_slot(disk: FaultyDisk) -> None:
    manifest = new(disk)
    manifest.append(blocks(0, 1, 2))
    manifest.append(freed(np.array([1], np.int32)))
    manifest.append(blocks(0, 3, version=1))
    manifest.close()
    assert read(disk) == named(blocks(2)) + named(blocks(0, 3, version=1))


def test_no_manifest_is_an_empty_one(disk: FaultyDisk) -> None:
    assert read_manifest(disk, GEOMETRY)[0] == 0
    assert read(disk) == []


def _states(disk: FaultyDisk) -> tuple[bytes, list[tuple[int, list[tuple[int, bytes]]]]]:
    """A manifest's bytes, and up to where each is needed to read what."""
    manifest = new(disk, blocks(7, 8))
    end = HEADER_BYTES + FRAME_BYTES + 2 * RECORD.itemsize
    states = [(end, named(blocks(7, 8)))]
    for batch in (blocks(0, 1), blocks(2), freed(np.array([0, 8], np.int32)), blocks(1, version=1)):
        manifest.append(batch)
        end += FRAME_BYTES + len(batch) * RECORD.itemsize
        states.append((end, read(disk)))
    manifest.close()
    return (disk.path / MANIFEST).read_bytes(), states


def expected(
    states: list[tuple[int, list[tuple[int, bytes]]]], whole: int
) -> list[tuple[int, bytes]]:
    """What can be read if only the first ``whole`` bytes are as they were."""
    return next((state for end, state in reversed(states) if end <= whole), [])


def test_torn_at_every_byte_it_says_what_was_whole(disk: FaultyDisk) -> None:
    raw, states = _states(disk)
    assert len(raw) > states[-1][0], "room is set aside"
    for at in range(states[-1][0] + 1):
        (disk.path / MANIFEST).write_bytes(raw[:at])
        assert read(disk) == expected(states, at), "cut off"
        (disk.path / MANIFEST).write_bytes(raw[:at] + bytes(len(raw) - at))
        whole = len(raw) - len(raw[at:].lstrip(b"\0"))  # some were zeros before
        assert read(disk) == expected(states, whole), "zeros from there on"


def test_with_any_byte_changed_it_says_what_stood_before(disk: FaultyDisk) -> None:
    raw, states = _states(disk)
    for at in range(HEADER_BYTES, states[-1][0]):
        (disk.path / MANIFEST).write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert read(disk) == expected(states, at)


def test_with_any_frame_lost_or_moved_it_says_what_stood_before(disk: FaultyDisk) -> None:
    raw, states = _states(disk)
    ends = [HEADER_BYTES, *(end for end, _ in states)]
    for begin, end in itertools.pairwise(ends):
        whole = expected(states, begin)
        (disk.path / MANIFEST).write_bytes(raw[:begin] + raw[end:])
        assert read(disk) == whole, "left out"
        (disk.path / MANIFEST).write_bytes(raw[:begin] + bytes(end - begin) + raw[end:])
        assert read(disk) == whole, "zeros"
        (disk.path / MANIFEST).write_bytes(raw[:end] + raw[begin:])
        assert read(disk) == expected(states, end), "twice"


def test_frames_of_an_earlier_file_are_not_taken_for_its_own(disk: FaultyDisk) -> None:
    first = new(disk)
    for slot in range(4):
        first.append(blocks(slot))
    first.close()
    raw = (disk.path / MANIFEST).read_bytes()
    second = Manifest(disk, GEOMETRY, 1, np.zeros(0, RECORD), SLOTS)
    second.append(blocks(9))
    second.close()
    # As if the new file stood where the old one did, and the rest of the old had not been erased.
    kept = HEADER_BYTES + 2 * FRAME_BYTES + RECORD.itemsize
    mixed = (disk.path / MANIFEST).read_bytes()[:kept] + raw[kept:]
    (disk.path / MANIFEST).write_bytes(mixed)
    assert read(disk) == named(blocks(9))


def test_a_manifest_of_other_slots_is_refused(disk: FaultyDisk) -> None:
    new(disk).close()
    with pytest.raises(TierError, match="blocks of 4,096 bytes"):
        read_manifest(disk, Geometry(8192, 8192, 64, b"n" * 16))
    with pytest.raises(TierError, match="another model"):
        read_manifest(disk, Geometry(4096, 4096, 64, b"m" * 16))


def test_a_damaged_header_leaves_nothing_to_trust(
    disk: FaultyDisk, caplog: pytest.LogCaptureFixture
) -> None:
    new(disk, blocks(1)).close()
    raw = bytearray((disk.path / MANIFEST).read_bytes())
    raw[20] ^= 1
    (disk.path / MANIFEST).write_bytes(raw)
    assert read(disk) == []
    assert "damaged at its start" in caplog.text


def test_a_manifest_that_cannot_be_read_is_an_error_not_an_empty_tier(disk: FaultyDisk) -> None:
    new(disk, blocks(1)).close()
    disk.fault = failing("read", MANIFEST)
    with pytest.raises(StorageError, match="manifest"):
        read_manifest(disk, GEOMETRY)


def test_a_failed_append_changes_nothing(disk: FaultyDisk) -> None:
    manifest = new(disk, blocks(1))
    disk.fault = failing("write", MANIFEST)
    with pytest.raises(StorageError, match="manifest"):
        manifest.append(blocks(2))
    disk.fault = failing("nothing")
    assert manifest.recorded(np.array([1, 2], np.int32)).tolist() == [1]
    manifest.append(blocks(3))
    manifest.close()
    assert read(disk) == named(blocks(1, 3))


def test_a_full_file_that_cannot_be_written_anew_keeps_what_it_has(disk: FaultyDisk) -> None:
    manifest = new(disk, slots=4)
    appended = 0
    disk.fault = failing("open", "manifest.new")
    with pytest.raises(StorageError):  # noqa: PT012 -- which append fails is not the point
        for appended in range(1000):
            manifest.append(blocks(appended % 4, version=appended))
    before = named(blocks(*[(appended - 4 + i) % 4 for i in range(4)]))
    disk.fault = failing("nothing")
    assert [slot for slot, _ in read(disk)] == [slot for slot, _ in before]
    manifest.append(blocks(appended % 4, version=appended))
    manifest.close()
    assert read(disk)[-1] == named(blocks(appended % 4, version=appended))[0]


def test_it_is_put_in_place_of_one_that_fails_to_close(
    disk: FaultyDisk, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = new(disk, blocks(1))
    manifest.append(blocks(2))
    disk.fault = failing("close", MANIFEST)
    manifest.resize(2 * SLOTS)
    assert "Input/output error" in caplog.text
    disk.fault = failing("nothing")
    manifest.append(blocks(3))
    manifest.close()
    assert read(disk) == named(blocks(1, 2, 3))


def test_bytes_moved_a_few_at_a_time_are_all_moved(disk: FaultyDisk) -> None:
    disk.at_most = 7
    manifest = new(disk, blocks(1))
    manifest.append(blocks(2, 3))
    manifest.close()
    assert read(disk) == named(blocks(1, 2, 3))


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=8, unique=True), max_size=60))
def test_however_often_it_is_written_anew_it_says_the_same_and_stays_small(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    disk = Directory(tmp_path_factory.mktemp("manifest") / "tier")
    manifest = new(disk, slots=16)
    # The directory and its lock take space, too.
    own_bytes = disk.allocated_bytes() - (disk.path / MANIFEST).stat().st_blocks * 512
    held: dict[int, bytes] = {}
    for number, batch in enumerate(batches):
        slots = np.array(batch, np.int32)
        if number % 3 == 2:
            manifest.append(freed(slots))
            for slot in batch:
                held.pop(slot, None)
        else:
            made = blocks(*batch, version=number)
            manifest.append(made)
            for slot, key in named(made):
                held.pop(slot, None)
                held[slot] = key
        assert disk.allocated_bytes() - own_bytes <= manifest_bytes(16, 4096) // 2
    assert read(disk) == sorted(held.items(), key=lambda item: list(held).index(item[0]))
    manifest.close()
    disk.close()


def test_both_files_together_stay_within_the_bound(tmp_path: Path) -> None:
    most = 0

    class Watched(Directory):
        def rename(self, old: str, new: str) -> None:
            nonlocal most
            files = [(self.path / name).stat().st_blocks * 512 for name in self.names()]
            most = max(most, sum(files))
            super().rename(old, new)

    disk = Watched(tmp_path / "tier")
    manifest = new(disk, slots=100)
    for number in range(300):
        manifest.append(blocks(*range(number % 100), version=number))
    assert manifest_bytes(100, 4096) // 2 < most <= manifest_bytes(100, 4096)
    manifest.close()
    disk.close()
