"""The connector outside of vLLM, and what surrounds it, without vLLM."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_without_vllm_the_import_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"GreenCache into vLLM's .*: pip install vllm$"):
        import greencache.adapters.vllm  # noqa: F401


def test_what_connectors_share_loads_nothing_heavy() -> None:
    """It runs inside engines' processes: of what we depend on, only what the client needs."""
    heavy = ["numba", "pyarrow", "matplotlib", "typer", "pulp", "redis", "greencache.tiers"]
    modules = ["attach", "planning", "transfers", "telling"]
    program = "; ".join(
        [
            "import sys",
            *(f"import greencache.adapters.paged.{module}" for module in modules),
            f"print([name for name in {heavy} if name in sys.modules])",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
