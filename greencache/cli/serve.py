"""``greencache serve``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from greencache.errors import ServiceError, SettingsError
from greencache.service.daemon import Daemon
from greencache.service.lifetime import WhileUsed
from greencache.service.logs import configure_logs
from greencache.service.observation import Observation
from greencache.service.steering import Steering
from greencache.settings import ServeSettings, Settings, load_settings

__all__ = ["Options", "run"]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, unparsed."""

    socket: Path | None = None
    dram: str | None = None
    ssd_dir: Path | None = None
    ssd: str | None = None
    while_used: bool = False


def with_options(settings: Settings, options: Options) -> Settings:
    """Settings in which options of the command line stand.

    Raises
    ------
    SettingsError
        If one cannot be used.
    """
    given = {name: value for name, value in asdict(options).items() if value is not None}
    del given["while_used"]
    try:
        serve = ServeSettings(**{**settings.serve.model_dump(), **given})
    except ValidationError as fault:
        problem = fault.errors()[0]
        option = str(problem["loc"][0]).replace("_", "-")
        reason = problem["msg"].removeprefix("Value error, ")
        raise SettingsError(f"--{option}: {reason}") from None
    return settings.model_copy(update={"serve": serve})


def run(options: Options) -> None:
    """Serve until told to stop.

    Raises
    ------
    ServiceError
        If another daemon listens there, or the system fails it.
    InputError
        If a setting cannot be had on this machine.
    TierError
        If memory or files cannot be used.
    """
    settings = with_options(load_settings(), options)
    configure_logs(settings.serve.log)
    try:
        asyncio.run(_serve(settings, options.while_used))
    except OSError as fault:
        raise ServiceError(f"the daemon cannot go on: {fault}") from fault


async def _serve(settings: Settings, while_used: bool) -> None:
    daemon = Daemon(settings)
    observation = Observation(daemon)
    observation.sources["control"] = Steering(daemon).samples
    if while_used:
        WhileUsed(daemon)
    await daemon.run()
