"""A tier from settings alone: what is set is what it does."""

from __future__ import annotations

import pytest

from greencache.errors import InputError
from greencache.settings import load_settings
from greencache.tiers.configured import redis_tier
from tests.conformance.prompts import load, prompt, store
from tests.tiers.valkeys import a_server


def test_no_server_is_no_tier() -> None:
    assert redis_tier(load_settings().redis, 1000, b"") is None


async def test_a_server_is_a_tier_as_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_server() as valkey:
        valkey.client.acl_setuser(
            "alice", enabled=True, passwords=["+secret"], categories=["+@all"], keys=["kv:*"]
        )
        monkeypatch.setenv("GREENCACHE_REDIS__URL", f"redis://alice:secret@127.0.0.1:{valkey.port}")
        monkeypatch.setenv("GREENCACHE_REDIS__CAPACITY", "4KiB")
        monkeypatch.setenv("GREENCACHE_REDIS__TTL", "10min")
        monkeypatch.setenv("GREENCACHE_REDIS__PREFIX", "kv")
        monkeypatch.setenv("GREENCACHE_REDIS__LOOKUP_DEADLINE", "20s")
        tier = redis_tier(load_settings().redis, 1000, b"a model")
        assert tier is not None
        async with tier:
            assert await store(tier, prompt(*range(5))) == 3
            assert await load(tier, prompt(*range(5))) == 3
        names = valkey.client.keys("kv:*")
        assert len(names) == 3
        assert 590 <= valkey.client.ttl(names[0]) <= 600


def test_settings_that_do_not_go_together_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENCACHE_REDIS__URL", "redis://:secret@host/1")
    monkeypatch.setenv("GREENCACHE_REDIS__CLUSTER", "yes")
    with pytest.raises(InputError, match="cluster") as fault:
        redis_tier(load_settings().redis, 1000, b"")
    assert "secret" not in str(fault.value)
