"""A connector whose copies take long, so that something can be killed in the midst of them.

Runs in vLLM's environment. A copy that begins is told by a file, ``saving`` or ``loading``, in the
folder that ``SLOW_FOLDER`` names; it goes on ``SLOW_S`` seconds later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from greencache.adapters.vllm import GreenCacheConnector

__all__ = ["SlowConnector"]


def _slowly(copy: Callable[..., None], mark: Path) -> Callable[..., None]:
    def copy_slowly(*arguments: object) -> None:
        mark.touch()
        time.sleep(float(os.environ["SLOW_S"]))
        copy(*arguments)

    return copy_slowly


class SlowConnector(GreenCacheConnector):
    """Takes its time."""

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        super().register_kv_caches(kv_caches)
        pages: Any = self._moves._pages
        folder = Path(os.environ["SLOW_FOLDER"])
        pages.save = _slowly(pages.save, folder / "saving")
        pages.load = _slowly(pages.load, folder / "loading")
