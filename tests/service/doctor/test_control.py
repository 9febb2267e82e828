"""Settings that the daemon refuses, or that no controller can do anything with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from greencache.service.doctor.control import check_control, check_metrics_address, check_policy
from greencache.service.doctor.finding import Verdict
from greencache.settings import (
    ControlSettings,
    EngineSettings,
    ServeSettings,
    Settings,
    StorageSettings,
)

NAMED = {"model": "llama-3.1-8b", "hardware": "1xH100"}


def settings(engine: dict[str, Any], **more: Any) -> Settings:
    return Settings(engine=EngineSettings(**engine), **more)


def test_an_engine_that_is_known_is_controlled() -> None:
    finding = check_control(settings(NAMED))
    assert finding.verdict is Verdict.OK
    assert finding.text == "sizes the tiers for llama-3.1-8b on 1xH100"


def test_what_is_not_to_be_controlled_is_well() -> None:
    finding = check_control(settings({}))
    assert finding.verdict is Verdict.OK
    assert "off, tiers keep their sizes: set GREENCACHE_ENGINE__MODEL" in finding.text


@pytest.mark.parametrize(
    ("engine", "more", "complaint"),
    [
        ({"model": "foo"}, {}, "unknown model 'foo'"),
        ({"hardware": "3xH100"}, {}, "3xH100"),
        ({"kv_dtype": "foo"}, {}, "foo"),
        ({}, {"storage": StorageSettings(admission="foo")}, "'foo'"),
        ({}, {"catalog": Path("/nope.toml")}, "/nope.toml"),
        ({}, {"control": ControlSettings(forecast="perfect")}, "GREENCACHE_CONTROL__FORECAST"),
    ],
)
def test_what_cannot_be_controlled_fails(
    engine: dict[str, str], more: dict[str, Any], complaint: str
) -> None:
    finding = check_control(settings({**NAMED, **engine}, **more))
    assert finding.verdict is Verdict.FAIL
    assert complaint in finding.text


def test_a_policy_is_one_that_there_is() -> None:
    assert check_policy("LFU").text == "lfu"
    finding = check_policy("foo")
    assert (finding.verdict, "'foo'" in finding.text) == (Verdict.FAIL, True)


def test_beyond_loopback_metrics_need_a_token() -> None:
    assert check_metrics_address(ServeSettings()).verdict is Verdict.OK
    finding = check_metrics_address(ServeSettings(metrics_address="0.0.0.0"))
    assert finding.verdict is Verdict.FAIL
    assert "GREENCACHE_SERVE__METRICS_TOKEN" in finding.text
    told = ServeSettings(metrics_address="0.0.0.0", metrics_token="secret")
    assert check_metrics_address(told).verdict is Verdict.OK
