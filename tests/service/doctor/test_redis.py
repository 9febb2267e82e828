"""The shared tier's server: real ones, that let blocks be written or not."""

from __future__ import annotations

import pytest

from greencache.service.doctor.finding import Finding, Verdict
from greencache.service.doctor.sources import check_redis
from greencache.settings import load_settings
from tests.tiers.valkeys import a_server


async def found(monkeypatch: pytest.MonkeyPatch, url: str, **more: str) -> Finding:
    for name, value in {"URL": url, "CONNECT_DEADLINE": "20s", **more}.items():
        monkeypatch.setenv(f"GREENCACHE_REDIS__{name}", value)
    (finding,) = await check_redis(load_settings().redis)
    assert "s3cret" not in repr(finding)
    return finding


async def test_without_a_server_there_is_nothing_to_look_at() -> None:
    assert await check_redis(load_settings().redis) == []


async def test_one_that_serves_is_well_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_server() as valkey:
        finding = await found(monkeypatch, valkey.url, LOOKUP_DEADLINE="20s")
        assert finding.verdict is Verdict.OK
        assert finding.text.startswith(f"127.0.0.1:{valkey.port}: ")
        assert valkey.client.dbsize() == 0


async def test_rights_room_and_absence_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_server() as valkey:
        valkey.client.acl_setuser(
            "reader", enabled=True, passwords=["+s3cret"], categories=["+@read"], keys=["*"]
        )
        where = f"127.0.0.1:{valkey.port}"
        finding = await found(monkeypatch, f"redis://reader:s3cret@{where}", LOOKUP_DEADLINE="20s")
        assert finding.verdict is Verdict.WARN
        assert finding.text.startswith(f"{where} failed: ")
        finding = await found(monkeypatch, f"redis://reader:wrong-s3cret@{where}")
        assert finding.verdict is Verdict.WARN
        finding = await found(monkeypatch, valkey.url, CAPACITY="100B")
        assert "no room" in finding.text
    assert (await found(monkeypatch, f"redis://:s3cret@{where}")).verdict is Verdict.WARN


async def test_settings_that_do_not_go_together_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = await found(monkeypatch, "redis://:s3cret@host/1", CLUSTER="yes")
    assert finding.verdict is Verdict.FAIL
