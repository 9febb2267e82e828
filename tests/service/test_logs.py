"""Logs: each record is one line that says when, in UTC."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

import pytest

from greencache.service.logs import configure_logs

Format = Literal["text", "json"]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("greencache")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def logged(format: Format) -> list[str]:
    stream = io.StringIO()
    configure_logs(format, stream=stream)
    log = logging.getLogger("greencache.tiers")
    log.info("%s: opened", "ssd", extra={"capacity_bytes": 5})
    try:
        raise OSError(28, "No space\nleft")
    except OSError:
        log.exception("a write failed")
    log.warning("client %s refused", "evil\n2026-01-01T00:00:00.000Z ERROR \x1b[31mroot\u2028")
    logging.getLogger("elsewhere").info("not for us")
    logging.getLogger("elsewhere").warning("for all")
    return stream.getvalue().splitlines()


def test_text_is_a_line_a_record() -> None:
    opened, failed, refused, other = logged("text")
    stamp, rest = opened.split(" ", 1)
    assert stamp.endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()) < 60
    assert rest == "INFO greencache.tiers: ssd: opened capacity_bytes=5"
    assert "ERROR greencache.tiers: a write failed [OSError: [Errno 28] No space" in failed
    assert "in logged " in failed
    assert __file__ in failed
    assert refused.isprintable(), "nobody forges a line, or colours it"
    assert other.endswith("WARNING elsewhere: for all")


def test_json_is_an_object_a_record_with_its_exception() -> None:
    opened, failed, refused, other = map(json.loads, logged("json"))
    assert opened.pop("time").endswith("Z")
    assert opened == {
        "level": "info",
        "logger": "greencache.tiers",
        "message": "ssd: opened",
        "capacity_bytes": 5,
    }
    assert failed["exception"]["type"] == "OSError"
    assert failed["exception"]["traceback"].startswith("Traceback")
    assert __file__ in failed["exception"]["traceback"]
    assert refused["message"].startswith("client evil\n2026")
    assert other["logger"] == "elsewhere"


def test_what_is_given_besides_replaces_nothing() -> None:
    stream = io.StringIO()
    configure_logs("json", stream=stream)
    logging.getLogger("greencache").warning("x", extra={"level": "fine", "when": {1, 2}})
    line = json.loads(stream.getvalue())
    assert line["level"] == "warning"
    assert line["when"] == "{1, 2}"


def test_level_and_second_call() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logs("text", stream=first)
    configure_logs("text", "WARNING", stream=second)
    logging.getLogger("greencache").info("quiet")
    logging.getLogger("greencache").error("loud")
    assert first.getvalue() == ""
    assert second.getvalue().endswith("ERROR greencache: loud\n")
