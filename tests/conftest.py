"""What many tests share."""

from __future__ import annotations

import os

import hypothesis
import pytest

from greencache.catalog import Catalog
from greencache.controller.models import find_model
from greencache.controller.performance import ServingHardware, serving_hardware
from greencache.traces import RequestTrace, read_trace, sample_path

# The first call of compiled code takes as long as compiling does: no test is timed.
hypothesis.settings.register_profile("greencache", deadline=None)
hypothesis.settings.load_profile("greencache")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests must not change them."""
    for name in list(os.environ):
        if name.upper().startswith("GREENCACHE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def conversation() -> RequestTrace:
    """The real Mooncake conversation trace."""
    return read_trace(sample_path())


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture(scope="session")
def hardware(catalog: Catalog) -> ServingHardware:
    """Llama 3.1 8B on one H100, with the trace's blocks of 512 tokens."""
    return serving_hardware(catalog, find_model("llama-3.1-8b"), "H100", block_tokens=512)
