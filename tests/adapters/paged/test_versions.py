"""Engines that a connector was never run with are refused, with the range that it was."""

from __future__ import annotations

import logging

import pytest

from greencache.adapters.paged.versions import check_version
from greencache.errors import RefusedError

RANGE = ("0.32.0", "0.33")


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu", "0.32.1", "0.32.12.post1"])
def test_versions_within_the_range_pass(version: str) -> None:
    check_version("vLLM", version, RANGE)


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.33rc1", "0.33.0.dev7+g1", "1.0", "dev"])
def test_others_are_refused_with_the_range(version: str) -> None:
    with pytest.raises(
        RefusedError, match=r"vLLM from 0\.32\.0 up to, not including, 0\.33: this is "
    ) as refused:
        check_version("vLLM", version, RANGE)
    assert f"this is {version}; set GREENCACHE_VLLM__ANY_VERSION=true" in str(refused.value)


def test_who_wants_any_version_is_warned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_version("vLLM", "9.0", RANGE, any_version=True)
    assert "this is 9.0; it may fail" in caplog.text
