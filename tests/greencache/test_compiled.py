"""Machine code is kept between processes and never outlives what it was made from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from greencache import compiled
from greencache.bench import cluster
from greencache.tiers import transactions


def test_a_kernel_depends_on_every_file_it_reaches() -> None:
    """The engine calls the index and the roofline: an edit there must compile the engine anew."""
    names = {Path(name).name for name in compiled._sources[cluster.advance.__module__]}
    assert names >= {
        "cluster.py", "engine.py", "engine_state.py", "transactions.py", "policies.py",
        "candidates.py", "state.py", "performance.py",
    }  # fmt: skip
    assert "engine.py" not in {
        Path(name).name for name in compiled._sources[transactions.store.__module__]
    }


def test_an_edit_gives_another_cache_folder(tmp_path: Path) -> None:
    source = tmp_path / "kernel.py"
    source.write_text("a = 1\n")
    before = compiled._cache_dir(frozenset([str(source)]))
    assert compiled._cache_dir(frozenset([str(source)])) == before
    times = (source.stat().st_atime_ns, source.stat().st_mtime_ns)
    source.write_text("a = 2\n")
    os.utime(source, ns=times)
    assert compiled._cache_dir(frozenset([str(source)])) != before


def test_folders_of_sources_long_gone_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "kernel.py"
    source.write_text("a = 1\n")
    old = compiled._cache_dir(frozenset([str(source)]))
    assert old is not None
    os.utime(old, (0, 0))
    source.write_text("a = 2\n")
    new = compiled._cache_dir(frozenset([str(source)]))
    assert new is not None
    assert new.exists()
    assert not old.exists()


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_no_obstacle() -> None:
    """A service account may have no home: kernels are then compiled in every process."""
    assert compiled._cache_dir(frozenset()) is not None
    code = (
        "import numpy as np\n"
        "from greencache.controller.curves import lru_stack_distances\n"
        "print(lru_stack_distances(np.array([0, 1, 0], np.int32)).tolist())\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[-1, -1, 2]\n"


def test_asking_memory_early_changes_nothing_whatever_is_asked() -> None:
    def read(array: np.ndarray, index: int) -> int:
        compiled.prefetch(array, index)
        return int(array[1])

    compiled_read = numba.njit(read)
    array = np.arange(3, dtype=np.int32)
    for index in (0, -1, 10**15):
        assert compiled_read(array, index) == 1
    assert array.tolist() == [0, 1, 2]
    (made,) = compiled_read.inspect_llvm().values()
    assert "llvm.prefetch" in made
