"""Forgetting blocks that no tier has, so that what a cache knows of blocks stays bounded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greencache.tiers.directory import KeyDirectory
from greencache.tiers.index import TierIndex
from greencache.tiers.learning import Learner
from greencache.tiers.state import NONE

__all__ = ["forget_unused"]


def forget_unused(
    directory: KeyDirectory, indexes: Sequence[TierIndex], learner: Learner | None, left: int
) -> int:
    """Forget keys until ``left`` are known, if as many are in no tier; how many were forgotten.

    Those that were asked for the longest time ago go first, as far as a learner knows; it learns
    most from blocks that come again soon after they went. Takes time in proportion to all that is
    known, so it is worth doing for many at once.
    """
    unused = directory.live_ids()
    for index in indexes:
        slot_of = index.state.slot_of[: len(unused)]
        unused[: len(slot_of)] &= slot_of == NONE
    ids = np.flatnonzero(unused).astype(np.int32)
    if learner is not None:
        ids = ids[np.argsort(learner.last_asked_s(ids), kind="stable")]
    going = ids[: max(0, len(directory) - left)]
    directory.forget(going)
    for index in indexes:
        index.forget(going)
    if learner is not None:
        learner.forget(going)
    return len(going)
