"""``greencache doctor``: what this machine offers, and what is wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from greencache.output import STDOUT, check_outputs, write_json
from greencache.service.doctor.examination import examine
from greencache.service.doctor.finding import Finding, Verdict

__all__ = ["run"]

_WIDE = 120
_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def run(socket: Path | None, json: Path | None) -> bool:
    """Look at everything, print what was found; whether nothing fails."""
    check_outputs(json)
    findings = asyncio.run(examine(socket))
    well = all(each.verdict is not Verdict.FAIL for each in findings)
    if json is not None:
        write_json(json, _as_json(findings, well))
    if json != STDOUT:
        console = Console(
            highlight=False, markup=False, width=None if Console().is_terminal else _WIDE
        )
        console.print(_table(findings))
        console.print(_summary(findings))
    return well


def _as_json(findings: list[Finding], well: bool) -> dict[str, object]:
    return {
        "schema": "greencache.doctor/1",
        "well": well,
        "findings": [
            {
                "check": each.check,
                "verdict": each.verdict.value,
                "text": each.text,
                "advice": each.advice,
            }
            for each in findings
        ],
    }


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("text", overflow="fold")
    for each in findings:
        text = Text(each.text)
        if each.advice:
            text.append(f"\n-> {each.advice}", style=_STYLES[each.verdict])
        table.add_row(Text(each.verdict.value, style=_STYLES[each.verdict]), each.check, text)
    return table


def _summary(findings: list[Finding]) -> str:
    counts = Counter(each.verdict for each in findings)
    return "\n" + ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
