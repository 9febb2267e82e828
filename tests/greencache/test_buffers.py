"""Copies of long arrays, which are made in parts: every byte, and none beside them."""

from __future__ import annotations

import numpy as np
import pytest

from greencache.buffers import _COPY_BYTES, copy_bytes


@pytest.mark.parametrize("parts", [0, 1, 2, 3])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_every_byte_is_copied_and_none_beside(parts: int, more: int) -> None:
    size = max(0, parts * _COPY_BYTES + more)
    source = np.random.default_rng(size).integers(1, 256, size, dtype=np.uint8)
    memory = np.zeros(size + 2, np.uint8)
    copy_bytes(memory[1:-1], source)
    assert np.array_equal(memory[1:-1], source)
    assert memory[0] == memory[-1] == 0


def test_copies_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        copy_bytes(np.zeros(5, np.uint8), np.ones(3, np.uint8))
