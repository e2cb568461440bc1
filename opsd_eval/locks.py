"""One writer a folder: the kernel's lock, so that a killed process leaves none behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(out: Path, refusal: str, *, name: str = ".lock") -> Iterator[None]:
    """Hold a folder for writing; a second process gets ``ValueError(refusal)`` with ``{holder}`` filled in.

    ``name`` is the lock's file, which says who holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / name).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(refusal.replace("{holder}", file.read().strip() or "unknown")) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextmanager
def in_turn(out: Path, name: str) -> Iterator[None]:
    """Hold a folder for writing, after whoever holds it: for work that comes out the same whoever does it first."""
    with (out / name).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
