"""A connector that loads zeros instead of what was stored: outputs have to change by that.

Runs in vLLM's environment. Without it, equal outputs would not show that loaded KV is used.
"""

from __future__ import annotations

from typing import Any

import torch

from greencache.adapters.vllm import GreenCacheConnector

__all__ = ["ZeroingConnector"]


class ZeroingConnector(GreenCacheConnector):
    """Forgets what it loads."""

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        super().register_kv_caches(kv_caches)
        pages: Any = self._moves._pages
        load = pages.load

        def load_zeros(blocks: Any, first: int, block_ids: Any) -> None:
            load([block * 0 for block in blocks], first, block_ids)

        pages.load = load_zeros
