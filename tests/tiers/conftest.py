"""A real server, empty at each test, for all that a tier on it does by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tiers.valkeys import Server, a_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with a_server() as one:
        yield one


@pytest.fixture
def valkey(server: Server) -> Server:
    server.client.flushall()
    return server
