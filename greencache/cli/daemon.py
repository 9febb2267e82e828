"""Commands of the daemon. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_commands"]

_SOCKET = typer.Option(
    help="Where the daemon listens; default daemon.sock in the user's run-time folder."
)
_Json = Annotated[
    Path | None,
    typer.Option("--json", help="Write the result as JSON to this file; - for standard output."),
]


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
    while_used: Annotated[
        bool,
        typer.Option(
            "--while-used", help="End some seconds after the last client has gone, as engines do."
        ),
    ] = False,
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


def status(socket: Annotated[Path | None, _SOCKET] = None, json: _Json = None) -> None:
    """Say what a running daemon is, has and did.

    Exits with 1 if none runs.

    For example:

      greencache status

      greencache status --json - | jq '.pools[].tiers.ssd.used_bytes'
    """
    from greencache.cli import status as command

    command.run(socket, json)


def resize(
    sizes: Annotated[
        list[str], typer.Argument(metavar="TIER=SIZE...", help="Sizes, as dram=64GiB ssd=1TiB.")
    ],
    socket: Annotated[Path | None, _SOCKET] = None,
    json: _Json = None,
) -> None:
    """Set tiers' sizes by hand, while engines use them.

    A smaller tier gives memory and disk space back at once, but for what is leased: that goes when
    the leases end, and this says how much it is. If the daemon's controller is on, it chooses sizes
    anew at its next decision.

    For example:

      greencache resize dram=64GiB

      greencache resize dram=64GiB ssd=1TiB
    """
    from greencache.cli import resize as command

    command.run(sizes, socket, json)


def doctor(socket: Annotated[Path | None, _SOCKET] = None, json: _Json = None) -> None:
    """Say what this machine offers the daemon, and what is wrong.

    Looks at the kernel, memory, limits, the socket's directory, whether a daemon runs, the disk for
    SSD, and meters and sources of energy and carbon intensity, all as the settings have them. Each
    finding is ok, warn (works, with a loss) or fail, and says what to do. Nothing is changed.

    Exits with 1 if anything fails.

    For example:

      greencache doctor

      GREENCACHE_SERVE__SSD_DIR=/mnt/nvme/greencache greencache doctor
    """
    from greencache.cli import doctor as command

    if not command.run(socket, json):
        raise typer.Exit(1)


def add_commands(app: typer.Typer) -> None:
    """Make the daemon's commands part of ``greencache``."""
    for command in (serve, status, resize, doctor):
        app.command()(command)
