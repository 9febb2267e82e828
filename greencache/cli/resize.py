"""``greencache resize``: set tiers' sizes by hand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from greencache.cli.place import socket_of
from greencache.client.direct import ask_resize
from greencache.errors import InputError
from greencache.output import STDOUT, check_outputs, write_json
from greencache.quantities import format_bytes, parse_bytes

__all__ = ["parse_sizes", "run"]


def parse_sizes(texts: Sequence[str]) -> dict[str, int]:
    """Sizes by tier, of texts like ``dram=64GiB``.

    Raises
    ------
    InputError
        If one is not like that, or names a tier a second time.
    """
    sizes: dict[str, int] = {}
    for text in texts:
        tier, equals, size = text.partition("=")
        if not equals or not tier:
            raise InputError(f"{text!r} is no size of a tier; write it like dram=64GiB")
        if tier in sizes:
            raise InputError(f"{tier} is given two sizes")
        sizes[tier] = parse_bytes(size)
    return sizes


def run(sizes: Sequence[str], socket: Path | None, json: Path | None) -> None:
    """Resize, and say what is still to be given back.

    Raises
    ------
    InputError
        If a size cannot be read, or there is no such tier.
    UnavailableError
        If no daemon answers.
    TierError
        If a size cannot be had.
    """
    check_outputs(json)
    wanted = parse_sizes(sizes)
    over = ask_resize(socket_of(socket), wanted)
    if json is not None:
        tiers = {
            name: {"capacity_bytes": size, "over_bytes": over[name]}
            for name, size in wanted.items()
        }
        write_json(json, {"schema": "greencache.resize/1", "tiers": tiers})
    if json == STDOUT:
        return
    for name, size in wanted.items():
        left = "; all that is beyond has been given back"
        if over[name]:
            left = f"; {format_bytes(over[name])} still to be given back, as leases end"
        print(f"{name}: {format_bytes(size)}{left}", file=sys.stdout)
