"""What the host gives: memory and limits as they are, and as they may be elsewhere."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest

from greencache.quantities import GIB
from greencache.service.doctor.finding import Finding, Verdict
from greencache.service.doctor.host import (
    check_limits,
    check_memory,
    check_memory_files,
    check_processes,
)
from greencache.tiers.memory import available_memory_bytes


def refused(*_: object) -> int:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_memory_is_what_can_be_had_here() -> None:
    assert check_memory(1 << 20).verdict is Verdict.OK
    found = check_memory(available_memory_bytes() + (1 << 40))
    assert found.verdict is Verdict.FAIL
    assert "GREENCACHE_SERVE__DRAM" in found.advice


@pytest.mark.parametrize(
    ("wanted", "held", "verdict"),
    [
        (8 * GIB, 0, Verdict.OK),
        (8 * GIB + 1, 0, Verdict.WARN),
        (10 * GIB, 0, Verdict.WARN),
        (10 * GIB + 1, 0, Verdict.FAIL),
        (11 * GIB, 2 * GIB, Verdict.WARN),
        (9 * GIB, 2 * GIB, Verdict.OK),
    ],
)
def test_some_memory_is_left_to_others(wanted: int, held: int, verdict: Verdict) -> None:
    found = check_memory(wanted, held_bytes=held, available=lambda: 10 * GIB)
    assert found.verdict is verdict
    assert bool(found.advice) == (verdict is not Verdict.OK)


def test_memory_files_and_watching_work_here_and_are_missed_where_forbidden() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert check_memory_files().verdict is Verdict.OK
    assert check_processes().verdict is Verdict.OK
    assert check_memory_files(make=refused).verdict is Verdict.FAIL
    found = check_processes(watch=refused)
    assert found.verdict is Verdict.FAIL
    assert "not permitted" in found.text
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def with_limit(kind: int, value: int, sessions: int) -> dict[str, Finding]:
    """As it is here but for one limit."""

    def limits(asked: int) -> tuple[int, int]:
        return (value, value) if asked == kind else resource.getrlimit(asked)

    return {each.check: each for each in check_limits(sessions, limits=limits)}


def test_too_few_files_are_warned_of_with_what_is_possible() -> None:
    found = with_limit(resource.RLIMIT_NOFILE, 1256, sessions=4096)["open files"]
    assert found.verdict is Verdict.WARN
    assert "1,256 may be open; 4,096 clients take 8,448" in found.text
    assert "LimitNOFILE=8448" in found.advice
    assert "500 clients" in found.advice
    enough = with_limit(resource.RLIMIT_NOFILE, 1256, sessions=500)["open files"]
    assert enough.verdict is Verdict.OK


def test_short_files_fail() -> None:
    assert "length of files" not in {each.check for each in check_limits(1)}
    found = with_limit(resource.RLIMIT_FSIZE, GIB, sessions=1)["length of files"]
    assert found.verdict is Verdict.FAIL
    assert found.text == "1 GiB at the most"


def test_locked_memory_is_said_not_judged() -> None:
    for value, text in ((resource.RLIM_INFINITY, "without limit"), (8 << 20, "8 MiB; the daemon")):
        found = with_limit(resource.RLIMIT_MEMLOCK, value, sessions=1)["locked memory"]
        assert found.verdict is Verdict.OK
        assert found.text.startswith(text)
