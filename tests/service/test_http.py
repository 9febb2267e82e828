"""The HTTP server: pages for who may read them, and limits for everybody."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import httpx
import pytest

from greencache.errors import ServiceError, SettingsError
from greencache.service.http import HttpServer, Reply
from tests.service.pages import ask, send


async def hello(accept: str) -> Reply:
    return Reply(f"hello {accept}\n".encode())


async def broken(accept: str) -> Reply:
    raise ZeroDivisionError("a page of ours")


PAGES = {"/hello": hello, "/broken": broken}


async def test_a_page_is_served_to_a_real_client() -> None:
    async with HttpServer(PAGES) as server, httpx.AsyncClient() as client:
        answer = await client.get(
            f"http://127.0.0.1:{server.port}/hello?x=1", headers={"Accept": "text/plain"}
        )
        assert answer.status_code == 200
        assert answer.text == "hello text/plain\n"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        head = await client.head(f"http://127.0.0.1:{server.port}/hello")
        assert (head.content, head.headers["content-length"]) == (b"", str(len("hello */*\n")))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /../hello HTTP/1.1\r\n\r\n", 404),
        (b"POST /hello HTTP/1.1\r\nContent-Length: 9\r\n\r\n", 405),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500),
        (b"GET /hello\r\n\r\n", 400),
        (b"GET /hello SPDY/3\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
async def test_what_is_no_request_for_a_page_is_refused(request_bytes: bytes, status: int) -> None:
    async with HttpServer(PAGES) as server:
        answer = await send(server.port, request_bytes)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"ZeroDivision" not in answer
        assert (await ask(server.port, "/hello")).status == 200


async def test_half_a_request_ends_in_time_and_a_closed_one_at_once() -> None:
    async with HttpServer(PAGES, exchange_s=0.2) as server:
        began_s = time.monotonic()
        assert await send(server.port, b"GET /hello HTTP/1.1\r\nHost:") == b""
        assert 0.1 < time.monotonic() - began_s < 5
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET")
        writer.close()
        assert (await ask(server.port, "/hello")).status == 200


async def test_many_idle_connections_keep_nobody_out_for_long() -> None:
    async with HttpServer(PAGES, exchange_s=0.5, connections=8) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(30)]
        turned_away = [reader for reader, _ in idle[8:]]
        answers = await asyncio.gather(*(reader.read(-1) for reader in turned_away))
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
        assert [await reader.read(-1) for reader, _ in idle[:8]] == [b""] * 8
        assert (await ask(server.port, "/hello")).status == 200
        for _, writer in idle:
            writer.close()


async def test_who_never_reads_is_cut_off() -> None:
    async def large(accept: str) -> Reply:
        return Reply(bytes(64 << 20))

    async with HttpServer({"/large": large}, exchange_s=0.3) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(20):
            while not server.connections:
                await asyncio.sleep(0.01)
            while server.connections:
                await asyncio.sleep(0.01)
        received = 0
        with suppress(ConnectionResetError):
            received = len(await reader.read(-1))
        assert received < 64 << 20
        writer.close()


async def test_closing_ends_what_is_open() -> None:
    async with HttpServer(PAGES) as server:
        port = server.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.05)
    assert await reader.read(-1) == b""
    writer.close()
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_beyond_loopback_only_with_a_token(address: str) -> None:
    with pytest.raises(SettingsError, match="GREENCACHE_SERVE__METRICS_TOKEN"):
        HttpServer(PAGES, address=address)
    HttpServer(PAGES, address=address, token="secret")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Authorization: Bearer secret-é", 200),
        ("authorization:  bearer  secret-é", 200),
        ("Authorization: Bearer secret", 401),
        ("Authorization: Bearer", 401),
        ("Authorization: Basic secret-é", 401),
        ("X-Token: secret-é", 401),
    ],
)
async def test_the_token_is_asked_for(header: str, status: int) -> None:
    async with HttpServer(PAGES, address="0.0.0.0", token="secret-é") as server:
        answer = await ask(server.port, "/hello", header)
        assert answer.status == status
        assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)


async def test_a_port_that_is_taken_is_said() -> None:
    async with HttpServer(PAGES) as server:
        with pytest.raises(ServiceError, match=rf"127\.0\.0\.1:{server.port} .*METRICS_PORT"):
            async with HttpServer(PAGES, port=server.port):
                pass


async def test_loopback_of_both_kinds() -> None:
    async with HttpServer(PAGES, address="::1") as server:
        answer = await send(server.port, b"GET /hello HTTP/1.0\r\n\r\n", address="::1")
        assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_a_public_page_needs_no_token_and_no_other_is_given_with_it() -> None:
    pages = {**PAGES, "/public": hello}
    async with HttpServer(pages, address="0.0.0.0", token="secret", public=["/public"]) as server:
        for path, status in {
            "/public": 200,
            "/public?x=1": 200,
            "/public/": 401,
            "/hello": 401,
        }.items():
            assert (await ask(server.port, path)).status == status
        assert (await ask(server.port, "/public", "Authorization: Bearer wrong")).status == 200
