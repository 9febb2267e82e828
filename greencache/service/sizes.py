"""How much memory and disk the daemon takes, if nothing else is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from greencache.errors import SettingsError
from greencache.quantities import format_bytes
from greencache.service.pools import PoolOptions
from greencache.settings import Settings

__all__ = ["in_words", "pool_options"]


def pool_options(settings: Settings) -> PoolOptions:
    """What the settings say, with defaults of this machine.

    Raises
    ------
    SettingsError
        If there is to be an SSD tier, and nothing says where.
    """
    serve = settings.serve
    dram = default_dram_bytes() if serve.dram is None else serve.dram
    ssd = serve.ssd
    if serve.ssd_dir is None:
        if ssd:
            raise SettingsError(
                f"{format_bytes(ssd)} of SSD are for KV, but nothing says where: name a folder on"
                " it (--ssd-dir, GREENCACHE_SERVE__SSD_DIR), or leave the size out"
            )
        ssd = 0
    elif ssd is None:
        ssd = default_ssd_bytes(serve.ssd_dir)
    return PoolOptions(
        dram_bytes=dram,
        ssd_bytes=ssd,
        staging_bytes=serve.staging,
        ssd_dir=serve.ssd_dir,
        policy=settings.storage.policy,
        redis=settings.redis,
    )


def in_words(options: PoolOptions) -> str:
    """Sizes, places and policy in a line, as they hold before anybody resizes."""
    dram = format_bytes(max(options.dram_bytes, options.staging_bytes))
    ssd = "no SSD"
    if options.ssd_dir is not None:
        ssd = f"SSD {format_bytes(options.ssd_bytes)} in {options.ssd_dir}"
    return f"DRAM {dram}, {ssd}, policy {options.policy}"


def default_dram_bytes() -> int:
    """A quarter of the host's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def default_ssd_bytes(folder: Path) -> int:
    """A quarter of the filesystem that the folder is on, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).total // 4
