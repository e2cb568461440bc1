"""Files held against size and SHA-256 as written; folders, such as checkpoints, that are whole or absent."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opsd_eval.jsonl import read_json, write_json

MANIFEST = "checkpoint.json"


def what_is_broken(folder: Path, *, only: Callable[[str], bool] = lambda name: True) -> str | None:
    """Why a folder is absent or not as its manifest says, or ``None`` if it is; ``only``: which files to look at."""
    try:
        files = read_json(folder / MANIFEST)["files"]
        for name, entry in files.items():
            path = folder / name
            if not only(name):
                continue
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, written were {entry['bytes']}"
            if _sha256(path, entry["bytes"]) != entry["sha256"]:
                return f"{name} does not match its checksum"
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        return f"{MANIFEST}: {error}"
    return None


@contextmanager
def whole_folder(final: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """A temporary folder that becomes ``final``, with its manifest, when the block ends well; else it vanishes.

    Written under a temporary name, forced to the disk, then renamed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        entries = {str(p.relative_to(temporary)): recorded(p) for p in files}
        for path in files:
            _sync(path)
        write_json(temporary / MANIFEST, {**manifest, "files": entries})
        _sync(temporary)
        remove(final)  # only ever a broken one: a whole one is not written again
        temporary.rename(final)
        _sync(final.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if type(error).__name__ == "SafetensorError":  # its only way to say that the disk is full
            raise OSError(f"{final} could not be written: {error}") from error
        raise


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def recorded(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file as it is."""
    size = path.stat().st_size
    return {"bytes": size, "sha256": _sha256(path, size)}


def as_recorded(path: Path, entry: Any) -> bool:
    """Whether a file still holds what was recorded of it; a JSON Lines file may hold more after it."""
    if not path.is_file() or not isinstance(entry, dict) or type(entry.get("bytes")) is not int:
        return False
    size = path.stat().st_size
    fits = size >= entry["bytes"] if path.suffix == ".jsonl" else size == entry["bytes"]
    return fits and _sha256(path, entry["bytes"]) == entry.get("sha256")


def changed_since(record: Path) -> list[str]:
    """Names under ``sha256`` in a record whose files beside it are not what was recorded; none without a record."""
    held = read_json(record) if record.is_file() else {}
    known = held.get("sha256") if isinstance(held, Mapping) else None
    entries = known.items() if isinstance(known, Mapping) else ()
    return [name for name, entry in entries if not as_recorded(record.parent / name, entry)]


def _sha256(path: Path, size: int) -> str:
    """Of the first ``size`` bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
