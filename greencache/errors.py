"""Every error that GreenCache raises on purpose.

* GreenCacheError
  - InputError            what the caller gave cannot be used (command line: exit 2)
    + QuantityError       a size, duration or rate that does not parse
    + UnknownNameError    a model, GPU, zone, policy or plan that does not exist
    + SettingsError       a setting, named by its variable
    + TraceError          a request trace, with file and line
    + GridError           a carbon-intensity series, with file and line
    + LoadError           a series of request rates, with file and line
    + SpecError           what a sweep is to run, with file and line
  - OutputError           a result could not be written (command line: exit 1)
  - PlanningError         no plan could be made; the control loop falls back (exit 1)
    + InfeasibleError     no choice of sizes meets the SLO: which day or interval
    + SolverError         the solver of the ILP is missing, failed or ran out of time
  - TierError             a tier cannot do what was asked (exit 1)
    + TierClosedError     it is closed, or not open yet
    + TierBusyError       another process has its files
    + StorageError        its memory or files fail
  - ServiceError          the daemon cannot be had, or cannot do what was asked (exit 1)
    + UnavailableError    it does not run, ended, or did not answer in time
    + RefusedError        it does not serve this client: user, version, block size, limits
    + ProtocolError       what came over the socket is not what was agreed on
  - SourceError           a service or device outside gave nothing that can be used
  - SweepError            a sweep stopped before its end; what was done is kept (exit 1)
  - BlockStateError       a transaction used out of order: commit twice, release twice
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "BlockStateError",
    "GreenCacheError",
    "GridError",
    "InfeasibleError",
    "InputError",
    "LoadError",
    "OutputError",
    "PlanningError",
    "ProtocolError",
    "QuantityError",
    "RefusedError",
    "ServiceError",
    "SettingsError",
    "SolverError",
    "SourceError",
    "SpecError",
    "StorageError",
    "SweepError",
    "TierBusyError",
    "TierClosedError",
    "TierError",
    "TraceError",
    "UnavailableError",
    "UnknownNameError",
]


class GreenCacheError(Exception):
    """Base of all errors raised on purpose; its text is one line that says what to do."""


class InputError(GreenCacheError):
    """Something given by the caller cannot be used as it is."""


class QuantityError(InputError):
    """A size, duration or rate could not be read."""


class UnknownNameError(InputError):
    """A name was looked up among known ones and is not there.

    Parameters
    ----------
    kind:
        What was looked for, as the user calls it: ``"model"``, ``"zone"``.
    name:
        What was asked for.
    known:
        Every name that would have been accepted; close ones are suggested first.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        folded = {candidate.lower(): candidate for candidate in names}
        close = difflib.get_close_matches(name.lower(), folded, n=1)
        hint = f"did you mean {folded[close[0]]!r}? " if close else ""
        super().__init__(f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}")
        self.kind = kind
        self.name = name


class SettingsError(InputError):
    """A setting is unknown, malformed or inconsistent with another."""


class _FileError(InputError):
    """A file could not be used; ``line`` or ``row``, from 1, says where, if it is not all of it."""

    def __init__(
        self, path: Path | str, reason: str, *, line: int | None = None, row: int | None = None
    ) -> None:
        where = f"{path}"
        if line is not None:
            where += f", line {line}"
        if row is not None:
            where += f", row {row}"
        super().__init__(f"{where}: {reason}")
        self.path = Path(path)
        self.line = line
        self.row = row
        self.reason = reason


class TraceError(_FileError):
    """A request trace is missing, empty or malformed."""


class GridError(_FileError):
    """A carbon-intensity series is missing, empty or malformed."""


class LoadError(_FileError):
    """A series of request rates is missing, empty or malformed."""


class SpecError(_FileError):
    """What a sweep is to run is missing, malformed or does not go together."""


class SweepError(GreenCacheError):
    """A sweep stopped before its end: a worker was lost, or is not fit for its work."""


class PlanningError(GreenCacheError):
    """No plan of tier sizes could be made."""


class InfeasibleError(PlanningError):
    """No plan holds the floor of an interval, or meets the target of a day.

    Parameters
    ----------
    needed:
        Requests within the SLO that are asked for.
    attainable:
        The most that any plan has; of a day, if later days are to meet their targets too, and with
        what the day had before the horizon. None if no choice can be taken at all.
    interval:
        Place of the interval in the horizon, if its floor cannot be held.
    day:
        The day, if its target cannot be met.
    """

    def __init__(
        self,
        *,
        needed: float,
        attainable: float | None,
        interval: int | None = None,
        day: int | None = None,
    ) -> None:
        if attainable is None:
            what = "no choice can be taken"
        else:
            what = f"{needed:,.6g} requests need to be within the SLO, {attainable:,.6g} can be"
        where = f"day {day}" if interval is None else f"interval {interval}"
        super().__init__(f"no plan for {where}: {what}; relax the SLO or allow larger tiers")
        self.needed = needed
        self.attainable = attainable
        self.interval = interval
        self.day = day


class SolverError(PlanningError):
    """The solver of an integer program is missing, failed, or ran out of time."""


class TierError(GreenCacheError):
    """A tier of blocks cannot do what was asked of it."""


class TierClosedError(TierError):
    """A tier is used before it was opened, or after it was closed."""


class TierBusyError(TierError):
    """The files of a tier are in use by another process."""


class StorageError(TierError):
    """The memory or the files of a tier fail."""


class ServiceError(GreenCacheError):
    """The daemon cannot be had, or cannot do what was asked of it."""


class UnavailableError(ServiceError):
    """The daemon does not run, has ended, or did not answer in time: to an engine, a miss."""


class RefusedError(ServiceError):
    """The daemon does not serve this client, or not in this way."""


class ProtocolError(ServiceError):
    """What came over the daemon's socket is not what both sides agreed on."""


class SourceError(GreenCacheError):
    """A service or a device outside gave nothing that can be used.

    Parameters
    ----------
    kind:
        What was wrong, in a word that failures are counted by: ``down``, ``slow``, ``refused``.
    reason:
        The same in a sentence without secrets.
    retry_after_s:
        How long it asked not to be asked again, if it did.
    """

    def __init__(self, kind: str, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.retry_after_s = retry_after_s


class OutputError(GreenCacheError):
    """A result could not be written; nothing half-written is left behind."""


class BlockStateError(GreenCacheError):
    """A block transaction was used out of order; this is a fault of the caller's code."""
