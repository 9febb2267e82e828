"""Shapes of dense Llama-like models: parameters, and KV that a token takes."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from greencache.blocks import KVGroup, KVLayout
from greencache.errors import UnknownNameError

__all__ = ["DenseModel", "find_model", "model_names"]


@dataclass(frozen=True, slots=True)
class DenseModel:
    """A decoder with grouped-query attention and a gated feed-forward layer, all of it active."""

    name: str
    title: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    context_tokens: int

    @property
    def layer_parameters(self) -> int:
        """Parameters that every token is multiplied with, in all layers.

        Q and output projections, K and V projections, and three feed-forward matrices; norms are
        left out (under 0.01 %).
        """
        attention = 2 * self.hidden * self.heads * self.head_dim
        attention += 2 * self.hidden * self.kv_heads * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.ffn)

    @property
    def head_parameters(self) -> int:
        """Parameters of the output head, which only tokens that are sampled from pass."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; embedding and head are separate matrices in these models."""
        return self.layer_parameters + 2 * self.head_parameters

    @property
    def attention_width(self) -> int:
        """Elements of one query over all heads, and all layers."""
        return self.layers * self.heads * self.head_dim

    def kv_layout(self, kv_dtype: str, *, block_tokens: int, ranks: int) -> KVLayout:
        """Layout of the model's KV blocks."""
        group = KVGroup(self.layers, self.kv_heads, self.head_dim)
        return KVLayout(self.name, "main", kv_dtype, (group,), block_tokens, ranks)


@cache
def _models() -> dict[str, DenseModel]:
    raw = tomllib.loads((files("greencache") / "data" / "models.toml").read_text("utf-8"))
    return {name: DenseModel(name=name, **shape) for name, shape in raw.items()}


def model_names() -> list[str]:
    """Names of the known models."""
    return list(_models())


def find_model(name: str) -> DenseModel:
    """Find a model by name; letter case does not matter.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    try:
        return _models()[name.lower()]
    except KeyError:
        raise UnknownNameError("model", name, _models()) from None
