"""TLS in front of a real server: who is believed, and that blocks come through it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme

from greencache.tiers.redis import Deadlines, RedisTier
from tests.conformance.prompts import load, prompt, store
from tests.tiers.valkeys import Server, a_server

PATIENT = Deadlines(connect_s=20, lookup_s=20, read_s=20, write_s=20)


@pytest.fixture
def valkey() -> Iterator[Server]:
    with a_server() as server:
        yield server


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


@asynccontextmanager
async def tls_before(valkey: Server, certificate: trustme.LeafCert) -> AsyncIterator[int]:
    """A port where the server is spoken to by TLS; the one that tests have cannot itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    connected: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof() if writer.can_write_eof() else writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", valkey.port)
        task = asyncio.current_task()
        assert task is not None
        connected.add(task)
        with suppress(OSError):
            await asyncio.gather(pipe(reader, back), pipe(there, writer))
        for each in (writer, back):
            each.close()
            with suppress(OSError):
                await each.wait_closed()

    server = await asyncio.start_server(connect, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*connected)
        await server.wait_closed()


async def test_blocks_go_through_tls_for_a_user_with_a_password(
    valkey: Server, authority: trustme.CA, tmp_path: Path
) -> None:
    valkey.client.acl_setuser(
        "alice", enabled=True, passwords=["+s@crt"], categories=["+@all"], keys=["*"]
    )
    async with tls_before(valkey, authority.issue_cert("localhost")) as port:
        for block_bytes in (1000, 3_000_000):
            async with RedisTier(
                f"rediss://alice:s%40crt@localhost:{port}/2",
                block_bytes,
                1 << 30,
                ca_file=tmp_path / "ca.pem",
                deadlines=PATIENT,
            ) as tier:
                keys = prompt(*range(8))
                assert await store(tier, keys) == 8
                assert await load(tier, keys) == 8
                assert tier.stats().failures == {}
    assert valkey.client.info("keyspace")["db2"]["keys"] == 16


@pytest.mark.parametrize("what", ["another authority", "another host", "no TLS"])
async def test_who_is_not_believed_is_told_nothing(
    valkey: Server, authority: trustme.CA, tmp_path: Path, what: str
) -> None:
    issuer = trustme.CA() if what == "another authority" else authority
    certificate = issuer.issue_cert("example.org" if what == "another host" else "localhost")
    async with tls_before(valkey, certificate) as port:
        port = valkey.port if what == "no TLS" else port
        async with RedisTier(
            f"rediss://:secret@localhost:{port}",
            1000,
            1 << 20,
            ca_file=tmp_path / "ca.pem",
            deadlines=Deadlines(lookup_s=2.0),
        ) as tier:
            assert await tier.match(prompt("a")) == 0
            (cause,) = tier.stats().failures
            assert cause in ("lookup: TLS", "lookup: timeout", "lookup: connection")
    assert valkey.client.info("commandstats").get("cmdstat_auth") is None
