"""Finding an SSD tier's blocks again after the process that stored them ended, in whatever way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greencache.blocks import KEY_BYTES
from greencache.errors import StorageError, TierError
from greencache.tiers.extents import Extents, extent_number
from greencache.tiers.files import Files, reported
from greencache.tiers.manifest import (
    MANIFEST,
    NEW_MANIFEST,
    RECORD,
    Geometry,
    Manifest,
    Records,
    read_manifest,
)
from greencache.tiers.state import NONE

__all__ = ["LOST", "Found", "find_blocks", "parents_of", "recover"]

LOST = -2
"""In place of a parent's slot: the parent is not there, so neither is the block."""

_NO_PARENT = bytes(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class Found:
    """What a directory holds.

    Attributes
    ----------
    files, geometry, extents:
        The directory, what its slots are like, and the files they stand in.
    generation:
        Of the manifest that was read; 0 if there is none.
    records:
        Of each block in a slot that the files are long enough for, the latest at the end.
    parents:
        For each of them, the slot of the block before it, as `parents_of` says.
    """

    files: Files
    geometry: Geometry
    extents: Extents
    generation: int
    records: Records
    parents: NDArray[np.int32]


def find_blocks(files: Files, extents: Extents, geometry: Geometry, start_empty: bool) -> Found:
    """Read what a directory's manifest says; nothing is changed.

    Raises
    ------
    TierError
        If other files than a tier's are there, or, unless ``start_empty``, blocks that are of
        another format, size or namespace.
    StorageError
        If it cannot be read.
    """
    names = files.names()
    others = [n for n in names if n not in (MANIFEST, NEW_MANIFEST) and extent_number(n) is None]
    if others and MANIFEST not in names:
        raise TierError(
            f"cannot use {files.path} as a tier: it holds {others[0]}, which is no tier's; name an"
            " empty directory"
        )
    try:
        generation, records = read_manifest(files, geometry)
    except TierError as error:
        if not start_empty or isinstance(error, StorageError):
            raise
        generation, records = 0, np.zeros(0, RECORD)
    per_extent = geometry.slots_per_extent
    whole = np.zeros(len(records), np.bool_)
    with reported(f"open {files.path}"):
        for number in extents.numbers():
            first = number * per_extent
            stop = first + min(per_extent, extents.whole_slots(number))
            whole |= (records["slot"] >= first) & (records["slot"] < stop)
    records = records[whole]
    return Found(files, geometry, extents, generation, records, parents_of(records))


def parents_of(records: Records) -> NDArray[np.int32]:
    """Slot of the block before each one: `NONE` for the first of a prompt, or `LOST`.

    Parameters
    ----------
    records:
        In the order in which blocks were stored.
    """
    keys, parents = records["key"].tolist(), records["parent"].tolist()
    slots = records["slot"].tolist()
    place_of = {key: place for place, key in enumerate(keys)}  # the last one of each
    found = np.full(len(keys), LOST, np.int32)
    for place, (key, parent) in enumerate(zip(keys, parents, strict=True)):
        if place_of[key] != place:
            continue  # the block was dropped, and later stored again elsewhere
        if parent == _NO_PARENT:
            found[place] = NONE
            continue
        # A block is stored after its parent: one that seems older has lost the parent it had.
        before = place_of.get(parent, place)
        if before < place and found[before] != LOST:
            found[place] = slots[before]
    return found


def recover(found: Found, kept: NDArray[np.intp], capacity_blocks: int) -> Manifest:
    """Give back the disk space of all that is not kept, and begin a new manifest.

    Parameters
    ----------
    found:
        What is there.
    kept:
        Places in ``found.records`` of what the tier holds from now on.
    capacity_blocks:
        Blocks that it may hold.

    Raises
    ------
    StorageError
        If the disk fails.
    """
    files, extents, held = found.files, found.extents, found.records[kept]
    with reported(f"recover {files.path}"):
        # What no record names goes first: the manifest may need the room.
        extents.punch_all_but(found.records["slot"])
        manifest = Manifest(files, found.geometry, found.generation, held, capacity_blocks)
        try:
            if len(held) < len(found.records):
                extents.punch_all_but(held["slot"])
            in_use = set(np.unique(held["slot"] // found.geometry.slots_per_extent).tolist())
            for number in extents.numbers():
                if number in in_use:
                    # Whoever was killed may not have synced it; the first flush does.
                    extents.written(number * found.geometry.slots_per_extent)
                else:
                    extents.remove(number)
        except OSError:
            manifest.close()
            raise
    return manifest
