"""Commands of the daemon. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_commands"]


def serve(
    socket: Annotated[
        Path | None,
        typer.Option(help="Where to listen; default daemon.sock in the user's run-time folder."),
    ] = None,
    dram: Annotated[
        str | None,
        typer.Option(help="Host DRAM for KV, e.g. 64GiB; default a quarter of the memory."),
    ] = None,
    ssd_dir: Annotated[
        Path | None,
        typer.Option(help="Folder on an SSD for KV; without it there is no SSD tier."),
    ] = None,
    ssd: Annotated[
        str | None,
        typer.Option(help="Disk space there, e.g. 2TB; default a quarter of its filesystem."),
    ] = None,
) -> None:
    """Run the store of this host, which engines attach to.

    One daemon serves all engines of a user on a host: they share what each of them stored. It
    listens on a Unix socket that only this user can open, and engines map its memory, so KV is
    copied once. Blocks on SSD are found again after a restart, also after kill -9.

    Stop it by SIGTERM or Ctrl-C: it writes what waits, then exits with 0. A second signal ends it
    at once, which loses nothing that was committed to SSD.

    For example:

      greencache serve --dram 64GiB

      greencache serve --dram 64GiB --ssd-dir /mnt/nvme/greencache --ssd 2TB
    """
    options = locals()
    from greencache.cli import serve as command

    command.run(command.Options(**options))


def add_commands(app: typer.Typer) -> None:
    """Make the daemon's commands part of ``greencache``."""
    for command in (serve,):
        app.command()(command)
