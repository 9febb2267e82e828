"""An engine's process imports the client: it brings nothing heavy along."""

from __future__ import annotations

import subprocess
import sys

_LOADED = """
import sys
before = set(sys.modules)
from greencache.client import AsyncClient, Client
print(*sorted(set(sys.modules) - before))
"""

_OURS = {"greencache", "greencache.buffers", "greencache.errors", "greencache.version"}
_OURS |= {"greencache.shared_memory", "greencache.waiting"}


def test_the_client_imports_numpy_and_msgspec_only() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True
    )
    loaded = ran.stdout.split()
    roots = {module.split(".")[0] for module in loaded}
    assert "numpy" in roots
    foreign = roots - set(sys.stdlib_module_names) - {"numpy", "msgspec", "greencache"}
    foreign.discard("typing_extensions")  # which msgspec imports if it is there
    assert {root for root in foreign if not root.startswith("_")} == set()
    ours = {module for module in loaded if module.split(".")[0] == "greencache"}
    assert {module for module in ours if not module.startswith("greencache.client")} == _OURS
