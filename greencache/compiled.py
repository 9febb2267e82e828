"""Compilation of hot loops, cached on disk and never stale.

numba's own cache looks only at the file of the compiled function: edit a kernel that it calls in
another file, and yesterday's machine code is run. Here the cache folder is named after the content
of every source file that the function reaches, so an edit to any of them compiles anew. Where no
folder can be written, nothing is kept and each process compiles.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering
from numba.extending import intrinsic
from numpy.typing import NDArray

_config: Any = numba.config

__all__ = ["inlined", "kernel", "prefetch", "subroutine"]

F = TypeVar("F", bound=Callable[..., Any])

Untyped: TypeAlias = Any
"""What numba and LLVM hand to what generates code."""

_KEPT_S = 30 * 24 * 3600.0

_sources: dict[str, frozenset[str]] = {}
"""Source files reached from each module that has kernels, by module name."""


def _reached_sources(function: Callable[..., Any]) -> frozenset[str]:
    files = {function.__code__.co_filename} | _sources.get(function.__module__, frozenset())
    for value in function.__globals__.values():
        module = getattr(value, "__module__", None)
        if isinstance(module, str) and module.startswith("greencache.") and module in sys.modules:
            files |= _sources.get(module, frozenset())
            files.add(str(sys.modules[module].__file__))
    return frozenset(files)


def _remove_old(root: Path) -> None:
    """Remove machine code that was made so long ago that its sources are surely gone."""
    for folder in root.iterdir():
        if folder.stat().st_mtime < root.stat().st_mtime - _KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)


def _cache_dir(files: frozenset[str]) -> Path | None:
    """Where machine code made from ``files`` is kept; None if nothing can be kept."""
    digest = hashlib.sha256(numba.__version__.encode())
    for name in sorted(files):
        digest.update(Path(name).read_bytes())
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "greencache" / "compiled" / digest.hexdigest()[:16]
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _remove_old(folder.parent)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # the latter where there is no home at all
        return None


_known_cache_dir = functools.cache(_cache_dir)
"""The same within a process: sources are hashed once, not for every function in them."""


def _compile(function: F, **options: Any) -> F:  # noqa: ANN401 - numba's own
    files = _reached_sources(function)
    _sources[function.__module__] = files
    folder = _known_cache_dir(files)
    chosen = _config.CACHE_DIR
    if folder is not None and not chosen:
        _config.CACHE_DIR = str(folder)
    njit: Any = numba.njit  # typed without its private options
    options = {"cache": folder is not None, "nogil": True, "_nrt": False, **options}
    try:
        compiled = njit(error_model="numpy", **options)(function)
    finally:
        _config.CACHE_DIR = chosen
    return cast("F", compiled)


class _PartLibrary(JITCodeLibrary):
    """The code of a subroutine: kept as it was lowered, to be compiled within each kernel."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()  # type: ignore[no-untyped-call]
        self._finalized = True


@register_pass(mutates_CFG=False, analysis_only=False)
class _LowerPart(NativeLowering):
    """Lowers a subroutine so that kernels can call it, and goes no further."""

    _name = "greencache_lower_part"

    def run_pass(self, state: Untyped) -> bool:
        library: Untyped = _PartLibrary
        state.library = library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)  # type: ignore[no-untyped-call]
        state.library.finalize()
        lowered = state["cr"]
        # What numba knows the function by: it must be a builtin, and one of its own.
        entry_point = object().__sizeof__
        state.targetctx.insert_user_function(entry_point, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=entry_point)
        return True


class _PartCompiler(CompilerBase):
    """Compiles subroutines: as numba does, but for the last step."""

    def define_pipelines(self) -> list[Untyped]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [
            (_LowerPart, what) if each is NativeLowering else (each, what)
            for each, what in passes.passes
        ]
        passes.finalize()
        return [passes]


def kernel(function: F) -> F:
    """Compile ``function`` with numba on first call, without the GIL, cached between processes.

    Kernels count no references: they may not create arrays, nor return any but their arguments.
    Counting them for every array of a state passed between small functions took nine tenths of the
    replay's time.

    Constants must live in the module of a kernel or state type that ``function``'s module imports
    by name: that is how an edit to them is noticed. ``NUMBA_CACHE_DIR`` overrides where the
    machine code is kept.
    """
    return _compile(function)


_PART = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _PartCompiler,
    "cache": False,  # it is in the machine code of its kernels
}


def subroutine(function: F) -> F:
    """Compile ``function`` as a part of kernels, which alone can call it.

    numba optimises each function with all that it calls, and makes machine code of it, again at
    each level of calls. What only kernels call needs neither: that is half of the time to compile.
    """
    return _compile(function, **_PART)


def inlined(function: F) -> F:
    """Compile ``function`` as `subroutine` does, and put it into each function that calls it.

    A call hands over a tuple of arrays word by word, seven words an array: for a few steps of work
    that costs more than the work. For what is small, or called from one place.
    """
    return _compile(function, **_PART, forceinline=True)


def _generate_prefetch(
    context: Untyped, builder: Untyped, signature: Untyped, arguments: tuple[Untyped, Untyped]
) -> Untyped:
    array, index = arguments
    kind = signature.args[0]
    data = context.make_array(kind)(context, builder, array).data
    byte, word = ir.IntType(8), ir.IntType(32)
    itemsize = ir.Constant(index.type, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    start = builder.bitcast(data, byte.as_pointer())
    address = builder.gep(start, [builder.mul(index, itemsize)])
    insert: Untyped = cgutils.get_or_insert_function
    ask = insert(
        builder.module,
        ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word]),
        "llvm.prefetch.p0",
    )
    # To write to, kept in all levels of cache, and data rather than code.
    builder.call(ask, [address, word(1), word(3), word(1)])
    return context.get_dummy_value()


@intrinsic
def _prefetch(typing: Untyped, array: Untyped, index: Untyped) -> Untyped:
    return types.void(array, types.int64), _generate_prefetch


prefetch: Callable[[NDArray[Any], int], None] = cast("Any", _prefetch)
"""Ask for ``array[index]`` to be brought into the processor's cache; nothing waits for it.

For kernels, and arrays of one dimension without gaps. Any index is safe, even one that the array
has not.
"""
