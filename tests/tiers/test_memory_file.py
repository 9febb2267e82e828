"""Memory that a tier takes and gives back by pages, in huge ones where the kernel has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import given, settings, strategies as st

from greencache.shared_memory import HUGE_PAGE_BYTES
from greencache.tiers.memory_file import MemoryFile
from greencache.tiers.syscalls import into_huge_pages

PAGE_BYTES = 4096
HUGE_PAGE = HUGE_PAGE_BYTES // PAGE_BYTES


@contextmanager
def memory_file(pages: int) -> Iterator[MemoryFile]:
    file = MemoryFile(1, "greencache-test", pages * PAGE_BYTES)
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


def test_whole_huge_pages_are_backed_by_such() -> None:
    wanted = 2 * HUGE_PAGE_BYTES if kernel_gathers() else 0
    with memory_file(4 * HUGE_PAGE) as file:
        # Two lie within the range, parts of two more do.
        file.back(HUGE_PAGE_BYTES // 2, 3 * HUGE_PAGE_BYTES)
        assert file.allocated_bytes == 3 * HUGE_PAGE_BYTES
        assert huge_pages_mapped(file) == wanted


ranges = st.tuples(st.integers(0, 3 * HUGE_PAGE - 1), st.integers(1, 2 * HUGE_PAGE))


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), ranges), min_size=1, max_size=8))
def test_memory_is_what_was_taken_and_not_given_back(
    steps: list[tuple[bool, tuple[int, int]]],
) -> None:
    """To the page, also where part of a huge page goes; what stays keeps its bytes."""
    pages = 4 * HUGE_PAGE
    here = np.zeros(pages, np.bool_)
    with memory_file(pages) as file:
        written = np.zeros(pages, np.uint8)
        rows = file.bytes.reshape(pages, PAGE_BYTES)
        for number, (take, (first, count)) in enumerate(steps, start=1):
            # A tier takes what it does not have, and gives back what it has.
            among = np.flatnonzero(here[first : first + count] != take) + first
            runs = np.split(among, np.flatnonzero(np.diff(among) != 1) + 1) if len(among) else []
            for run in runs:
                begin, length = int(run[0]) * PAGE_BYTES, len(run) * PAGE_BYTES
                if take:
                    file.back(begin, length)
                    assert not rows[run].any()
                    rows[run] = written[run] = number
                else:
                    file.give_back(begin, length)
                here[run] = take
            assert file.allocated_bytes == here.sum() * PAGE_BYTES
            assert (rows[here] == written[here, None]).all()
        del rows
