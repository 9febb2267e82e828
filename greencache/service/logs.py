"""Logs of the daemon: one line for each record, for people or as JSON, times in UTC."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import IO, Any, Literal

__all__ = ["JsonLines", "TextLines", "configure_logs"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else was given by ``extra``."""


def _time(record: logging.LogRecord) -> str:
    """ISO 8601, in UTC, to the millisecond."""
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _printable(text: str) -> str:
    """Text without line ends and other control characters: a client's name forges no line."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class TextLines(logging.Formatter):
    """``2026-05-01T12:00:00.000Z WARNING greencache.tiers: ...``, an exception at the end."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`, in one line."""
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        for name, value in _extra(record).items():
            line += f" {name}={value}"
        if record.exc_info and record.exc_info[1] is not None:
            fault = record.exc_info[1]
            line += f" [{type(fault).__name__}: {fault}"
            frames = traceback.extract_tb(fault.__traceback__)
            if frames:
                places = (f"{frame.name} {frame.filename}:{frame.lineno}" for frame in frames)
                line += " in " + " > ".join(places)
            line += "]"
        return _printable(line)


class JsonLines(logging.Formatter):
    """One JSON object: ``time``, ``level``, ``logger``, ``message``, what was given besides.

    An exception is an object too: ``type``, ``message`` and ``traceback``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`, as JSON in one line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _extra(record).items():
            line.setdefault(name, value)
        if record.exc_info and record.exc_info[1] is not None:
            fault = record.exc_info[1]
            line["exception"] = {
                "type": type(fault).__name__,
                "message": str(fault),
                "traceback": "".join(traceback.format_exception(fault)),
            }
        return json.dumps(line, default=str)


def configure_logs(
    format: Literal["text", "json"],
    level: int | str = logging.INFO,
    stream: IO[str] | None = None,
) -> None:
    """Send all that is logged to ``stream``, by default stderr; what was set up before is undone.

    Other packages' records come from warnings on.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("greencache").setLevel(level)
    logging.captureWarnings(True)
