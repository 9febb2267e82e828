"""Block keys name a block and all before it; layouts give sizes."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from greencache.blocks import KEY_BYTES, Attention, KVGroup, KVLayout, block_keys
from greencache.errors import InputError, UnknownNameError

LAYOUT = KVLayout("m", "r1", "fp16", (KVGroup(2, 4, 8),), block_tokens=4)
tokens = st.lists(st.integers(0, 2**32 - 1), max_size=40)


@given(tokens)
def test_only_full_blocks_have_keys(prompt: list[int]) -> None:
    keys = block_keys(LAYOUT, prompt)
    assert len(keys) == len(prompt) // 4
    assert all(len(key) == KEY_BYTES for key in keys)
    assert len(set(keys)) == len(keys), "even equal tokens differ by what precedes them"


@given(tokens, tokens, tokens)
def test_equal_prefixes_and_nothing_else_share_keys(
    shared: list[int], a: list[int], b: list[int]
) -> None:
    one, other = shared + a, shared + b
    for i, (x, y) in enumerate(
        zip(block_keys(LAYOUT, one), block_keys(LAYOUT, other), strict=False), start=1
    ):
        assert (x == y) == (one[: 4 * i] == other[: 4 * i])


@pytest.mark.parametrize(
    "other",
    [
        KVLayout("m2", "r1", "fp16", (KVGroup(2, 4, 8),), block_tokens=4),
        KVLayout("m", "r2", "fp16", (KVGroup(2, 4, 8),), block_tokens=4),
        KVLayout("m", "r1", "bf16", (KVGroup(2, 4, 8),), block_tokens=4),
        KVLayout("m", "r1", "fp16", (KVGroup(2, 8, 4),), block_tokens=4),
        KVLayout("m", "r1", "fp16", (KVGroup(2, 4, 8),), block_tokens=4, ranks=2),
    ],
)
def test_another_model_type_or_shape_shares_no_key(other: KVLayout) -> None:
    prompt = list(range(16))
    assert not set(block_keys(LAYOUT, prompt)) & set(block_keys(other, prompt))


def test_tenants_share_no_key() -> None:
    prompt = list(range(16))
    salts = [b"", b"a", b"b", b"a\0"]
    keys = [key for salt in salts for key in block_keys(LAYOUT, prompt, tenant_salt=salt)]
    assert len(set(keys)) == len(keys)


def test_token_ids_out_of_range_are_refused() -> None:
    for wrong in ([-1, 2, 3, 4], [2**32], [2**64], [1.9, 2.0, 3.0, 4.0]):
        with pytest.raises(InputError, match="token ids"):
            block_keys(LAYOUT, wrong)  # type: ignore[arg-type]


def test_llama_70b_takes_320_kib_a_token() -> None:
    """80 layers x (K and V) x 8 heads x 128 x 2 bytes = 327,680, as kvcache-simulator prints."""
    layout = KVLayout("llama", "main", "fp16", (KVGroup(80, 8, 128),), block_tokens=256)
    assert layout.bytes_per_token == 327_680
    assert layout.block_bytes == 256 * 327_680


def test_shards_add_up_to_the_block() -> None:
    group = KVGroup(32, 8, 128)
    for ranks in (1, 2, 4, 8):
        layout = KVLayout("m", "r", "bf16", (group,), ranks=ranks)
        assert layout.shard_bytes(group) * ranks == layout.block_bytes == 256 * 131_072
    twice_the_heads = KVLayout("m", "r", "bf16", (group,), ranks=16)
    assert twice_the_heads.block_bytes == 2 * 256 * 131_072, "ranks beyond the heads keep copies"


def test_mla_keeps_one_latent_on_every_rank() -> None:
    group = KVGroup(61, 1, 576, Attention.MLA)
    layout = KVLayout("deepseek", "main", "bf16", (group,), block_tokens=1, ranks=2)
    assert layout.shard_bytes(group) == 61 * 576 * 2
    assert layout.block_bytes == 2 * 61 * 576 * 2


def test_impossible_layouts_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'fp16'"):
        KVLayout("m", "r", "fp15", (KVGroup(1, 1, 1),))
    with pytest.raises(InputError):
        KVLayout("m", "r", "fp16", ())
    with pytest.raises(InputError):
        KVGroup(1, 1, 1, Attention.SLIDING)
    with pytest.raises(InputError):
        KVGroup(0, 1, 1)
