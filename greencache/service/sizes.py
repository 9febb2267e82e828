"""How much memory and disk the daemon takes, if nothing else is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from greencache.service.pools import PoolOptions
from greencache.settings import Settings

__all__ = ["pool_options"]


def pool_options(settings: Settings) -> PoolOptions:
    """What the settings say, with defaults of this machine."""
    serve = settings.serve
    dram = default_dram_bytes() if serve.dram is None else serve.dram
    ssd = serve.ssd
    if serve.ssd_dir is None:
        ssd = 0
    elif ssd is None:
        ssd = default_ssd_bytes(serve.ssd_dir)
    return PoolOptions(
        dram_bytes=dram,
        ssd_bytes=ssd,
        staging_bytes=serve.staging,
        ssd_dir=serve.ssd_dir,
        policy=settings.storage.policy,
    )


def default_dram_bytes() -> int:
    """A quarter of the host's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def default_ssd_bytes(folder: Path) -> int:
    """A quarter of the filesystem that the folder is on, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).total // 4
