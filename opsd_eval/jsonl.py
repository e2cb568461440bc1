"""Strict JSON and append-only JSON Lines on disk: files appear whole, a killed writer loses at most one line.

A writer that meets a full disk leaves a file as it found it.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any


def _jsonable(value: Any) -> Any:
    """Make a value strict JSON: NaN and infinities become null, tuples lists, lone surrogates escapes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if all(type(item) is int for item in value):
            return value
        return [_jsonable(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str | bytes):  # numpy scalars
        return _jsonable(value.item())
    return value


def dumps(value: Any) -> str:
    """One line of strict JSON (NaN written as null). ASCII, so any text survives, lone surrogates included."""
    return json.dumps(_jsonable(value), allow_nan=False)


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file whole or not at all (temporary file in the same folder, then rename)."""
    write_text(path, json.dumps(_jsonable(value), allow_nan=False, indent=1) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write a text file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".{os.getpid()}.tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _remove_left_over(path: Path) -> None:
    """Remove the temporary files of this file whose writers were killed."""
    for found in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        match = re.search(r"\.(\d+)\.tmp$", found.name)
        if match and not _is_alive(int(match[1])):
            found.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def read_json(path: Path | str) -> Any:
    """Read a JSON file, naming the file when it is missing or malformed."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None


def mend_jsonl(path: Path | str) -> int:
    """Cut a torn last line (one without a newline) off a JSON Lines file; returns the bytes removed."""
    path = Path(path)
    if not path.exists() or path.stat().st_size == 0:
        return 0
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep != end:
            file.truncate(keep)
        return end - keep


def append_jsonl(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows, one JSON object a line, after removing a torn last line; handed to the system before returning.

    All rows or none: when the disk is full or a row cannot be written, the file is cut back to what it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mend_jsonl(path)
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            for row in rows:
                write_all(file, (dumps(row) + "\n").encode())
        except BaseException:
            file.truncate(end)
            raise


def write_all(file: RawIOBase, data: bytes) -> None:
    """Write every byte: an unbuffered file may take fewer at once."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


def read_jsonl(path: Path | str, *, problems: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; a torn last line (no newline) is left out.

    A malformed line raises ``ValueError`` naming file, line and reason; with ``problems`` given, that message
    is appended to the list instead and the rest of the file is kept.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") and not parses_to_object(line):
                continue
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"expected a JSON object, got {type(row).__name__}")
            except (ValueError, RecursionError) as error:
                message = f"{path}:{number}: {error}"
                if problems is None:
                    raise ValueError(message) from None
                problems.append(message)
                continue
            yield row


def parses_to_object(line: bytes) -> bool:
    """Whether a line is one JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
