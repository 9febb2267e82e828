"""Pages in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from greencache.errors import SourceError

__all__ = ["MOST_PAGE_BYTES", "read_page"]

MOST_PAGE_BYTES = 16 * 2**20


def read_page(body: bytes, host: str) -> Iterator[Sample]:
    """All samples of a page.

    Raises
    ------
    SourceError
        If it is not in the text format.
    """
    try:
        for family in text_string_to_metric_families(body.decode("utf-8")):
            yield from family.samples
    except (ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError) as fault:
        raise SourceError(
            "garbage", f"{host} shows no page in Prometheus' text format ({str(fault)[:80]})"
        ) from None
