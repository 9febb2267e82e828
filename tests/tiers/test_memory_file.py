"""Memory that a tier takes and gives back by pages, in huge ones where the kernel has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from greencache.shared_memory import HUGE_PAGE_BYTES
from greencache.tiers.memory_file import MemoryFile
from greencache.tiers.syscalls import into_huge_pages
from tests.pinning import PagePinning

MIB = 2**20
PAGE_BYTES = 4096
HUGE_PAGE = HUGE_PAGE_BYTES // PAGE_BYTES


@contextmanager
def memory_file(pages: int, slot_bytes: int = HUGE_PAGE_BYTES) -> Iterator[MemoryFile]:
    file = MemoryFile(1, "greencache-test", pages * PAGE_BYTES, slot_bytes)
    try:
        yield file
    finally:
        file.close()


def huge_pages_mapped(file: MemoryFile) -> int:
    """Bytes of the file that this process sees in huge pages."""
    found, inside = 0, False
    start = f"{file.bytes.ctypes.data:x}-"
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.startswith(start)
        elif inside and line.startswith("ShmemPmdMapped"):
            found = int(line.split()[1]) * 1024
    return found


def kernel_gathers() -> bool:
    """Whether this kernel makes huge pages of memory files when it is told to."""
    with memory_file(HUGE_PAGE) as file:
        file.bytes[:] = 1
        return into_huge_pages(file.bytes.ctypes.data, HUGE_PAGE_BYTES)


def test_what_was_there_stays_when_it_is_gathered() -> None:
    with memory_file(2 * HUGE_PAGE) as file:
        content = np.random.default_rng(0).integers(0, 256, 2 * HUGE_PAGE_BYTES, np.uint8)
        file.bytes[:] = content
        into_huge_pages(file.bytes.ctypes.data, len(content))
        np.testing.assert_array_equal(file.bytes, content)


@pytest.mark.parametrize(
    ("slot_bytes", "slots", "huge"),
    [
        (2 * MIB, 4, 4),
        (32 * MIB, 1, 16),
        (5 * MIB, 4, 8),  # the third of every five lies in two slots
        (3 * MIB, 4, 4),
        (MIB, 16, 0),
    ],
)
def test_what_lies_within_one_slot_is_in_huge_pages(slot_bytes: int, slots: int, huge: int) -> None:
    wanted = huge * HUGE_PAGE_BYTES if kernel_gathers() else 0
    with memory_file(16 * HUGE_PAGE, slot_bytes) as file:
        file.back(0, slots * slot_bytes)
        assert file.allocated_bytes == slots * slot_bytes
        assert huge_pages_mapped(file) == wanted


@pytest.mark.parametrize("slot_bytes", [MIB, 2 * MIB, 3 * MIB, 5 * MIB])
def test_a_slot_goes_whoever_uses_its_neighbours(slot_bytes: int) -> None:
    """Part of a huge page would stay, for good, while a drive or a GPU uses another part."""
    with memory_file(16 * HUGE_PAGE, slot_bytes) as file:
        file.back(0, 3 * slot_bytes)
        device, begin = PagePinning(PAGE_BYTES), file.bytes.ctypes.data
        device.pin(begin, slot_bytes)
        device.pin(begin + 2 * slot_bytes, slot_bytes)
        file.give_back(slot_bytes, slot_bytes)
        assert file.allocated_bytes == 2 * slot_bytes
        device.unpin(begin)
        device.unpin(begin + 2 * slot_bytes)


ranges = st.tuples(st.integers(0, 20), st.integers(1, 20))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    slot_pages=st.sampled_from([1, 100, HUGE_PAGE, HUGE_PAGE + 256, 3 * HUGE_PAGE]),
    steps=st.lists(st.tuples(st.booleans(), ranges), min_size=1, max_size=8),
)
def test_memory_is_what_was_taken_and_not_given_back(
    slot_pages: int, steps: list[tuple[bool, tuple[int, int]]]
) -> None:
    """To the page; what stays keeps its bytes, what comes is zero."""
    slots, slot_bytes = 21, slot_pages * PAGE_BYTES
    here = np.zeros(slots, np.bool_)
    written = np.zeros(slots, np.uint8)
    with memory_file(slots * slot_pages, slot_bytes) as file:
        rows = file.bytes.reshape(slots, slot_bytes)
        for number, (take, (first, count)) in enumerate(steps, start=1):
            # A tier takes what it does not have, and gives back what it has.
            among = np.flatnonzero(here[first : first + count] != take) + first
            for run in np.split(among, np.flatnonzero(np.diff(among) != 1) + 1):
                if len(run) == 0:
                    continue
                begin, length = int(run[0]) * slot_bytes, len(run) * slot_bytes
                if take:
                    file.back(begin, length)
                    assert not rows[run].any()
                    rows[run] = written[run] = number
                else:
                    file.give_back(begin, length)
                here[run] = take
            assert file.allocated_bytes == here.sum() * slot_bytes
            assert (rows[here] == written[here, None]).all()
        del rows
