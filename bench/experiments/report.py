"""Writing docs/results.md: tables between its markers, pictures beside it.

What stands between ``<!-- begin NAME.PART -->`` and ``<!-- end NAME.PART -->`` is replaced by that
part of that experiment's results; all other text stays as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from greencache.bench.experiments import tables
from greencache.bench.experiments.running import Results, read_results
from greencache.errors import InputError
from greencache.output import write_output

__all__ = ["PARTS", "filled", "write_report"]

_Part: TypeAlias = Callable[[Results], str]

_COMMON: Mapping[str, _Part] = {"limits": tables.limits, "checks": tables.checks}
_FACTORIAL: Mapping[str, _Part] = {"headline": tables.headline, "matrices": tables.matrices}

PARTS: Mapping[str, Mapping[str, _Part]] = {
    "main": {
        **_COMMON,
        **_FACTORIAL,
        "variants": tables.variants,
        "policies": tables.policies,
        "paper": tables.paper,
    },
    "at_scale": {**_COMMON, **_FACTORIAL},
    "ablations": {**_COMMON, "ablations": tables.ablations},
    "forecast_error": {**_COMMON, "errors": tables.forecast_errors},
    "seeds": {**_COMMON, "seeds": tables.seeds},
    "policies": {"capacities": tables.capacities},
}
"""What each experiment has in the document."""

_LOAD = 0.6
_MARKED = re.compile(
    r"(?P<begin><!-- begin (?P<name>\w+)\.(?P<part>\w+) -->).*?"
    r"(?P<end><!-- end (?P=name)\.(?P=part) -->)",
    re.DOTALL,
)


def filled(text: str, found: Mapping[str, Results]) -> str:
    """A document with its marked parts made anew, as far as their experiments were found.

    Raises
    ------
    InputError
        If a marker names a part that its experiment does not have.
    """

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in found:
            return match[0]
        if match["part"] not in PARTS.get(name, {}):
            raise InputError(
                f"marker {name}.{match['part']}: there are {', '.join(PARTS.get(name, {}))}"
            )
        made = PARTS[name][match["part"]](found[name])
        return f"{match['begin']}\n\n{made}\n\n{match['end']}"

    return _MARKED.sub(part, text)


def _pictures(results: Results) -> dict[str, bytes]:
    """Pictures by the name of their file; imported here because matplotlib is slow to."""
    from greencache.bench.experiments import pictures

    name = results.name
    if name in ("main", "at_scale"):
        made = {
            f"results-{name}-savings.png": pictures.savings(results, _LOAD),
            f"results-{name}-oracle.png": pictures.oracle_gaps(results),
        }
        over_time = pictures.timeline(results)
        if over_time is not None:
            made[f"results-{name}-timeline.png"] = over_time
        return made
    if name == "forecast_error":
        return {f"results-{name}.png": pictures.forecast_errors(results)}
    return {}


def write_report(folders: Sequence[Path], docs: Path) -> None:
    """Put results into ``results.md`` of a folder, and pictures into its ``images``.

    Raises
    ------
    InputError
        If no folder is given, one has no results, or the document cannot be read.
    OutputError
        If something cannot be written.
    """
    if not folders:
        raise InputError("name the folders of the results to report")
    found = {results.name: results for results in map(read_results, folders)}
    path = docs / "results.md"
    try:
        text = path.read_text("utf-8")
    except OSError as fault:
        raise InputError(f"{path} cannot be read ({fault.strerror})") from None
    write_output(path, filled(text, found).encode())
    (docs / "images").mkdir(exist_ok=True)
    for results in found.values():
        for name, content in _pictures(results).items():
            write_output(docs / "images" / name, content)
