"""Who may import whom (docs/design.md): each part knows only what lies beneath it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FACE = ("greencache.cli", "greencache.__main__")
LAYERS: list[tuple[str, ...]] = [
    ("greencache",),  # what all share
    ("greencache.client",),
    ("greencache.tiers",),
    ("greencache.traces",),
    ("greencache.controller",),
    ("greencache.adapters",),
    ("greencache.bench",),
    ("greencache.service",),
    FACE,
]
"""From the bottom: a module imports from its own layer and those before it."""

FOLDERS = {
    "greencache": ROOT / "greencache",
    "greencache.adapters": ROOT / "adapters",
    "greencache.bench": ROOT / "bench",
    "greencache.controller": ROOT / "controller",
    "greencache.tiers": ROOT / "tiers",
    "greencache.traces": ROOT / "traces",
}

MODULES = {
    f"{package}.{'.'.join(path.relative_to(folder).with_suffix('').parts)}": path
    for package, folder in FOLDERS.items()
    for path in sorted(folder.rglob("*.py"))
}


LIVE = {
    f"greencache.tiers.{name}"
    for name in (
        "backing",
        "backlog",
        "base",
        "behind",
        "cache",
        "cache_lease",
        "cache_stats",
        "configured",
        "departures",
        "dram",
        "extents",
        "files",
        "making",
        "manifest",
        "memory",
        "memory_file",
        "promotion",
        "record_transfers",
        "recovery",
        "redis",
        "remote",
        "resolver",
        "resp",
        "servers",
        "sharing",
        "slots",
        "ssd",
        "syscalls",
        "transfers",
        "workers",
    )
}
"""What moves bytes: it stands on the core, which knows nothing of it."""


def layer_of(module: str) -> int:
    for number, prefixes in reversed(list(enumerate(LAYERS))):
        if any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes):
            return number
    raise AssertionError(f"{module} belongs to no layer")


def imported_by(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            assert node.module is not None
            modules.add(node.module)
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {module for module in modules if module.split(".")[0] == "greencache"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_beneath(module: str) -> None:
    for imported in imported_by(MODULES[module]):
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}"


def test_nothing_imports_a_top_level_folder_by_its_own_name() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in {
                    "adapters",
                    "bench",
                    "controller",
                    "tiers",
                    "traces",
                }, module


def test_the_core_does_no_io_and_reads_no_clock() -> None:
    """The index, curves, carbon and performance models are given time; they never ask for it."""
    forbidden = {"time", "asyncio", "socket", "subprocess", "random", "threading"}
    core = [m for m in MODULES if m.startswith(("greencache.tiers.", "greencache.controller."))]
    core = [m for m in core if m not in LIVE and m != "greencache.tiers.__init__"]
    core += ["greencache.blocks", "greencache.carbon", "greencache.factors"]
    for module in core:
        assert not imported_by(MODULES[module]) & LIVE, f"{module} imports what does I/O"
        for node in ast.walk(ast.parse(MODULES[module].read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module.split(".")[0]]
            assert not forbidden & set(names), f"{module} imports {names}"


def test_modules_stay_readable() -> None:
    for module, path in MODULES.items():
        assert len(path.read_text().splitlines()) <= 450, f"{module} has more than one idea"
