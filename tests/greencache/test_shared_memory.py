"""Memory files mapped where huge pages may begin."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from greencache.shared_memory import HUGE_PAGE_BYTES, map_shared


def lines_of_maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def mappings(name: str) -> int:
    return sum(f"memfd:{name}" in line for line in lines_of_maps())


@pytest.mark.parametrize("length", [4096, HUGE_PAGE_BYTES, 3 * HUGE_PAGE_BYTES + 8192])
def test_a_mapping_begins_where_a_huge_page_may_and_ends_with_its_last_view(length: int) -> None:
    file = os.memfd_create("mapped-here")
    os.ftruncate(file, length)
    memory = map_shared(file, length)
    assert len(memory) == length
    assert memory.ctypes.data % HUGE_PAGE_BYTES == 0
    memory[-4096:] = 7
    assert os.pread(file, 4096, length - 4096) == bytes([7]) * 4096
    view = memory[:100]
    os.close(file)
    del memory
    assert mappings("mapped-here") == 1
    view[:] = 1
    del view
    assert mappings("mapped-here") == 0


def test_what_cannot_be_mapped_leaves_nothing_behind() -> None:
    file = os.memfd_create("closed")
    os.close(file)

    def address_space_pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0])

    before = address_space_pages()
    for _ in range(50):
        with pytest.raises(OSError, match="descriptor"):
            map_shared(file, HUGE_PAGE_BYTES)
    assert (address_space_pages() - before) * 4096 < 50 * HUGE_PAGE_BYTES


def test_it_is_an_array_of_bytes() -> None:
    file = os.memfd_create("bytes")
    os.ftruncate(file, 4096)
    memory = map_shared(file, 4096)
    os.close(file)
    assert memory.dtype == np.uint8
    assert memory.flags.writeable
    assert not memory.any()
