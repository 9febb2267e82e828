"""All checks of this machine, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from greencache.client.place import default_socket
from greencache.errors import GreenCacheError, SettingsError
from greencache.service.doctor.control import check_control, check_metrics_address, check_policy
from greencache.service.doctor.disk import check_ssd
from greencache.service.doctor.finding import Finding, Verdict, fail
from greencache.service.doctor.host import (
    check_limits,
    check_memory,
    check_memory_files,
    check_processes,
)
from greencache.service.doctor.place import check_daemon, check_port, check_socket_directory
from greencache.service.doctor.sources import (
    check_energy,
    check_engines,
    check_intensity,
    check_redis,
)
from greencache.service.observation import PORT
from greencache.service.sizes import pool_options
from greencache.settings import Settings, load_settings

__all__ = ["examine"]


async def examine(socket: Path | None = None) -> list[Finding]:
    """Look at everything that the daemon needs, as the settings have it.

    Parameters
    ----------
    socket:
        Where the daemon listens, if not where the settings say.
    """
    found = [*_guarded("kernel", check_processes), *_guarded("memory files", check_memory_files)]
    try:
        settings = load_settings()
    except GreenCacheError as fault:
        advice = "mend it; what depends on settings was not looked at"
        return [fail("settings", str(fault), advice), *found]
    found += _guarded("limits", lambda: check_limits(settings.serve.sessions))
    place = socket or settings.serve.socket or default_socket()
    found.append(check_socket_directory(place))
    running: dict[str, Any] | None = None
    if found[-1].verdict is Verdict.OK:
        daemon, running = check_daemon(place)
        found.append(daemon)
    found += _guarded("metrics port", lambda: _metrics(settings, running))
    found += _guarded("sizes", lambda: _sizes(settings, running))
    found += [check_policy(settings.storage.policy), check_control(settings)]
    found += await check_energy(settings.energy)
    found.append(await check_intensity(settings))
    found += await check_engines(settings.engine)
    return found + await check_redis(settings.redis)


def _guarded(name: str, check: Callable[[], Finding | Iterable[Finding]]) -> list[Finding]:
    """What a check finds; a system that does not even let it look is a finding, too."""
    found: list[Finding] = []
    try:
        result = check()
        for each in [result] if isinstance(result, Finding) else result:
            found.append(each)
    except OSError as fault:
        found.append(fail(name, f"could not be looked at: {fault}", "look at this by hand"))
    return found


def _metrics(settings: Settings, running: dict[str, Any] | None) -> Iterator[Finding]:
    wanted = settings.serve
    if wanted.metrics:
        yield check_metrics_address(wanted)
    if wanted.metrics and (running is None or running["metrics"]["port"] is None):
        port = PORT if wanted.metrics_port is None else wanted.metrics_port
        yield check_port(wanted.metrics_address, port, needed=wanted.metrics_port is not None)


def _sizes(settings: Settings, running: dict[str, Any] | None) -> Iterator[Finding]:
    try:
        options = pool_options(settings)
    except SettingsError as fault:
        yield fail("sizes", str(fault), "set both, or neither")
        return
    held_bytes = 0
    for pool in () if running is None else running["pools"]:
        held_bytes += pool["tiers"]["dram"]["backed_bytes"]
    yield check_memory(max(options.dram_bytes, options.staging_bytes), held_bytes=held_bytes)
    if options.ssd_dir is not None:
        yield from check_ssd(options.ssd_dir, options.ssd_bytes)
