"""Writing results: whole or not at all, and checked before long work begins."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from greencache.errors import OutputError

__all__ = ["STDOUT", "check_writable", "write_json", "write_output"]

STDOUT = Path("-")
"""The path that stands for standard output."""


def check_writable(*paths: Path | None) -> None:
    """Fail now rather than after the work if a file cannot be written.

    Raises
    ------
    OutputError
        If the folder of a path is missing or not writable, or the path is a folder.
    """
    for path in paths:
        if path is None or path == STDOUT:
            continue
        folder = path.parent
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a directory")
        if not folder.is_dir():
            raise OutputError(f"cannot write {path}: there is no directory {folder}")
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as fault:
            raise OutputError(f"cannot write {path}: {fault.strerror}") from None


def write_output(path: Path, content: bytes) -> None:
    """Write a file whole: under another name first, then renamed; or to standard output.

    Raises
    ------
    OutputError
        If it cannot be written; whatever was there before is untouched.
    """
    if path == STDOUT:
        sys.stdout.write(content.decode())
        return
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            temporary = file.name
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except OSError as fault:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {fault.strerror}") from None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON for people and machines: indented, no NaN."""
    write_output(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
