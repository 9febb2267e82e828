"""How much room arrays get that grow with what is known."""

from __future__ import annotations

__all__ = ["room_for"]

_SHARE = 16
_FEWEST = 1024


def room_for(wanted: int, have: int) -> int:
    """Length of an array that is to have ``wanted`` places and has ``have``.

    It grows by a sixteenth at least. So over its life each place is copied some 16 times, however
    many at a time are wanted, and over a million blocks a sixteenth is what lies idle at the most,
    where doubling left up to a half.
    """
    if wanted <= have:
        return have
    return max(wanted, have + max(have // _SHARE, _FEWEST))
