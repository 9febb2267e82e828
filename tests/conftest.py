"""What many tests share."""

from __future__ import annotations

import asyncio
import inspect
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


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that are coroutines, each in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


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
