"""Damage to files as disks, editors and copies do it: bits, bytes, lines, and things that are no files."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def zeros(path: Path, rng: random.Random) -> None:
    """A run of NUL bytes, as some file systems leave after a power cut."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at : at + 64] = bytes(len(data[at : at + 64]))
    path.write_bytes(data)


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(300))


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def line_twice(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:-1], rng.choice(lines[:-1] or [b"x"]), b""]))


def line_lost(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().split(b"\n")
    del lines[rng.randrange(len(lines))]
    path.write_bytes(b"\n".join(lines))


def other_json(path: Path, rng: random.Random) -> None:
    """Valid JSON of another type, as the whole of a file and as a line."""
    text = rng.choice([b"[]", b"null", b"3", b'"x"', b"{}", b'{"a": 1}', b"[" * 100_000])
    lines = path.read_bytes().split(b"\n")
    lines[rng.randrange(len(lines))] = text
    path.write_bytes(rng.choice([text + b"\n", b"\n".join(lines)]))


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def to_itself(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path)


def swap(path: Path, rng: random.Random) -> None:
    """The content of another file beside it."""
    others = [p for p in path.parent.iterdir() if p.is_file() and p != path]
    if others:
        shutil.copy(rng.choice(sorted(others)), path)


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    f.__name__: f
    for f in (flip, truncate, zeros, empty, garbage, remove, line_twice, line_lost, other_json, folder, dangling,
              to_itself, swap)
}  # fmt: skip
