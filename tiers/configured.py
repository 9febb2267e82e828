"""Tiers as settings describe them."""

from __future__ import annotations

from greencache.settings import RedisSettings
from greencache.tiers.redis import Deadlines, RedisTier

__all__ = ["redis_tier"]


def redis_tier(settings: RedisSettings, block_bytes: int, namespace: bytes) -> RedisTier | None:
    """The shared tier for blocks of one layout; None if no server is set.

    Raises
    ------
    InputError
        If the settings do not go together; the text says which, and shows no password.
    """
    if settings.url is None:
        return None
    return RedisTier(
        settings.url.get_secret_value(),
        block_bytes,
        settings.capacity,
        namespace=namespace,
        cluster=settings.cluster,
        ca_file=settings.ca_file,
        ttl_s=settings.ttl,
        deadlines=Deadlines(
            connect_s=settings.connect_deadline,
            lookup_s=settings.lookup_deadline,
            read_s=settings.read_deadline,
            write_s=settings.write_deadline,
        ),
        connections=settings.connections,
        prefix=settings.prefix,
    )
