"""``greencache settings``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from greencache.output import STDOUT, check_outputs, write_json
from greencache.settings import CONFIG_VARIABLE, load_settings, origins

__all__ = ["run"]


def run(json: Path | None) -> None:
    """Print every setting; also as JSON if a file is given."""
    check_outputs(json)
    rows = origins(load_settings())
    if json is not None:
        values = {
            row.variable: {
                "value": None if row.value is None else _plain(row.value),
                "origin": row.origin,
                "description": row.description,
            }
            for row in rows
        }
        write_json(json, {"schema": "greencache.settings/1", "settings": values})
    if json == STDOUT:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    # Names and values are there to be copied: a name stays whole on any terminal.
    table.add_column("variable", no_wrap=True, min_width=max(len(row.variable) for row in rows))
    for heading in ("value", "from", "what it is"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        style = None if row.origin == "default" else "green"
        value = "-" if row.written is None else str(row.written)
        cells = (row.variable, value, row.origin, row.description)
        table.add_row(*map(Text, cells), style=style)
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    console.print(
        f'\n{CONFIG_VARIABLE} names a TOML file with the same tree, e.g. [storage] ssd = "8TB". '
        "Factors shown as - are the catalog's.",
        style="dim",
        highlight=False,
        markup=False,
    )


def _plain(value: object) -> str | float | int | bool:
    return value if isinstance(value, str | float | int | bool) else str(value)
