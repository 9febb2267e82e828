"""In bf16 a prefix that is found changes what is said, whoever has it: with and without us alike.

A prompt that is computed whole and one of which the first part is found are sums in another order,
and bf16 has 8 bits. So outputs are compared with those of an engine that finds as much of each
prompt in its own memory. ``pytest -m e2e -s tests/e2e/test_bf16.py`` says how many differ.
"""

from __future__ import annotations

import random

import pytest

from greencache.bench.vllm_engine import Engine
from tests.e2e.conftest import StartEngine, check_hits
from tests.service.daemons import RunningDaemon, settled

pytestmark = pytest.mark.e2e

PROMPTS, TOKENS = 24, 32
ENGINE_TOKENS = 128


def _prompts() -> list[list[int]]:
    """None ends with a block: the engine itself would compute all of its last one, we one token."""
    rng = random.Random(16)
    lengths = [rng.randrange(2, 16) * ENGINE_TOKENS + rng.randrange(1, 128) for _ in range(PROMPTS)]
    return [[rng.randrange(260, 1000) for _ in range(length)] for length in lengths]


def _said(engine: Engine) -> tuple[list[list[int]], list[int]]:
    """What follows each prompt by itself, and how many of its tokens were found."""
    answers = [engine.generate([prompt], max_tokens=TOKENS) for prompt in _prompts()]
    return [each["tokens"][0] for each in answers], [each["cached"][0] for each in answers]


def test_what_is_found_outside_says_in_bf16_what_is_found_inside_says(
    engine: StartEngine, daemon: RunningDaemon
) -> None:
    inside = engine(dtype="bfloat16")
    whole, none = _said(inside)
    from_own, own = _said(inside)
    inside.close()
    outside = engine(
        daemon, {"GREENCACHE_VLLM__BLOCK_TOKENS": f"{ENGINE_TOKENS}"}, dtype="bfloat16"
    )
    again, nothing = _said(outside)
    assert settled(lambda: bool(outside.ask(do="reset")["reset"]), 60.0)
    from_store, found = _said(outside)
    check_hits(outside)
    differ = sum(one != other for one, other in zip(whole, from_own, strict=True))
    print(f"\nbf16, without a connector: {differ} of {PROMPTS} differ if a prefix is found")
    assert none == nothing == [0] * PROMPTS
    assert found == own
    assert all(own)
    assert again == whole
    assert from_store == from_own
