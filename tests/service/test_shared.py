"""Daemons of several hosts share what they store through one server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from greencache.client import Client
from greencache.errors import InputError
from greencache.service.pools import PoolOptions, Pools
from greencache.settings import RedisSettings
from tests.conformance.prompts import prompt, the_bytes, wrong_blocks
from tests.service.daemons import RunningDaemon, settled
from tests.tiers.valkeys import a_server

BLOCK_BYTES = 32 * 1024


def client_of(daemon: RunningDaemon) -> Client:
    return Client(BLOCK_BYTES, socket=daemon.socket, timeout_s=20.0)


def test_one_host_finds_what_another_stored(tmp_path: Path) -> None:
    keys = prompt(*range(12))
    with a_server() as server:
        shared = {"url": server.url}
        with (
            RunningDaemon(tmp_path / "one", redis=shared) as one,
            RunningDaemon(tmp_path / "other", redis=shared) as other,
            client_of(one) as here,
            client_of(other) as there,
        ):
            assert here.store(keys, the_bytes(keys, BLOCK_BYTES)) == 12
            assert settled(lambda: there.lookup(keys).get("redis") == 12)
            into = np.zeros((12, BLOCK_BYTES), np.uint8)
            assert there.load(keys, into) == 12
            assert wrong_blocks(keys, into) == 0
            # It is in the other's own memory by now, and stays found without the server.
            server.kill()
            into[:] = 0
            assert there.load(keys, into) == 12
            assert wrong_blocks(keys, into) == 0
            server.restart()


async def test_a_server_that_cannot_be_meant_is_said_before_the_daemon_listens() -> None:
    options = PoolOptions(1 << 20, redis=RedisSettings(url=SecretStr("http://cache:6379")))
    with pytest.raises(InputError, match="redis"):
        async with Pools(options):
            pass
