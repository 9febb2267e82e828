"""Writing results: whole or not at all, and checked before long work begins."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from greencache.errors import InputError, OutputError

__all__ = ["STDOUT", "as_bytes", "check_outputs", "output_file", "write_json", "write_output"]

STDOUT = Path("-")
"""The path that stands for standard output."""


def check_outputs(*paths: Path | None, inputs: tuple[Path | None, ...] = ()) -> None:
    """Fail now rather than after the work if results cannot be written, or would destroy input.

    Raises
    ------
    InputError
        If two outputs are the same, or one is an input.
    OutputError
        If the folder of a path is missing or not writable, or the path is a folder.
    """
    taken = {path.resolve() for path in inputs if path is not None and path != STDOUT}
    for path in paths:
        if path is None:
            continue
        name = path if path == STDOUT else path.resolve()
        if name in taken:
            raise InputError(f"{path} is named twice; every result needs a file of its own")
        taken.add(name)
        if path != STDOUT:
            _check_writable(path)


def _check_writable(path: Path) -> None:
    target = path.resolve()
    try:
        if target.is_dir():
            raise OutputError(f"cannot write {path}: it is a directory")
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {path}: there is no directory {path.parent}")
        if not _is_special(target):
            with tempfile.NamedTemporaryFile(dir=target.parent):
                pass
    except OSError as fault:
        raise OutputError(f"cannot write {path}: {fault.strerror}") from None


def _is_special(path: Path) -> bool:
    """Whether the path is a device, a pipe or the like, which must be written to, not replaced."""
    return path.exists() and not path.is_file()


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name only when all is written; or standard output.

    A link stays a link, and what it leads to is replaced. A device or pipe is written to.

    Raises
    ------
    OutputError
        If it cannot be written; a file that was there before is untouched.
    """
    target = path.resolve()
    temporary: Path | None = None
    try:
        if path == STDOUT:
            if sys.stdout is None:
                raise OutputError("cannot write standard output: it is closed")
            sys.stdout.flush()
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif _is_special(target):
            with target.open("wb") as device:
                yield device
        else:
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
                temporary = Path(file.name)
                yield cast("BinaryIO", file)
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(target)
            temporary = None
    except BrokenPipeError:
        raise
    except OSError as fault:
        what = "standard output" if path == STDOUT else path
        raise OutputError(f"cannot write {what}: {fault.strerror or fault}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_output(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, as `output_file` does."""
    with output_file(path) as file:
        file.write(content)


def as_bytes(value: dict[str, Any]) -> bytes:
    """JSON for people and machines: indented, no NaN."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a value as JSON, as `write_output` does."""
    write_output(path, as_bytes(value))
