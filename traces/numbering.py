"""Small integers for block names that are chained already: no table of keys is needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.compiled import kernel

__all__ = ["number_by_first_appearance"]

_UNSEEN = -1


@kernel
def _is_numbered(names: NDArray[np.int32]) -> bool:
    following = 0
    for i in range(len(names)):
        if names[i] > following:
            return False
        if names[i] == following:
            following += 1
    return True


@kernel
def _number(
    names: NDArray[np.int32], number_of: NDArray[np.int32], numbers: NDArray[np.int32]
) -> None:
    following = 0
    for i in range(len(names)):
        if number_of[names[i]] == _UNSEEN:
            number_of[names[i]] = following
            following += 1
        numbers[i] = number_of[names[i]]


def number_by_first_appearance(names: NDArray[np.int32]) -> NDArray[np.int32]:
    """Number names 0, 1, … in the order in which they first appear.

    Parameters
    ----------
    names:
        Integers from 0, without large holes: memory is 4 bytes for each up to the largest.

    Returns
    -------
    numpy.ndarray
        The numbers; ``names`` itself where it is numbered so already.
    """
    if _is_numbered(names):
        return names
    number_of = np.full(int(names.max()) + 1, _UNSEEN, np.int32)
    numbers = np.empty(len(names), np.int32)
    _number(names, number_of, numbers)
    return numbers
