"""Imported once by the server that daemons of tests are forked from: it loads compiled code."""

from __future__ import annotations

import asyncio

from greencache.service.pools import PoolOptions, Pools
from greencache.service.warming import warm_up
from tests.service import daemons

__all__ = ["daemons"]

asyncio.run(warm_up(Pools(PoolOptions(dram_bytes=1 << 20)).small()))
