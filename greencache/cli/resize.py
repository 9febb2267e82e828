"""``greencache resize``: set tiers' sizes by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from greencache.cli.place import socket_of
from greencache.client.direct import ask_resize, ask_status
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
    wanted, place = parse_sizes(sizes), socket_of(socket)
    over = ask_resize(place, wanted)
    tiers = [pool["tiers"] for pool in ask_status(place)["pools"]]
    capacity = {name: sum(each[name]["capacity_bytes"] for each in tiers) for name in wanted}
    if json is not None:
        result = {
            name: {
                "wanted_bytes": size,
                "capacity_bytes": capacity[name] if tiers else size,
                "over_bytes": over[name],
            }
            for name, size in wanted.items()
        }
        write_json(json, {"schema": "greencache.resize/1", "tiers": result})
    if json != STDOUT:
        for name, size in wanted.items():
            print(f"{name}: {_said(size, capacity[name], over[name])}")


def _said(wanted_bytes: int, capacity_bytes: int, over_bytes: int) -> str:
    text = format_bytes(wanted_bytes)
    if capacity_bytes > wanted_bytes:
        text += f" wanted, {format_bytes(capacity_bytes)} kept: the least that serving takes"
    if over_bytes:
        return f"{text}; {format_bytes(over_bytes)} still to be given back, as leases and pins end"
    return f"{text}; nothing is left to be given back"
