"""Opening logs: plain or compressed files, JSON Lines and JSON lists alike, malformed entries named and left out."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from opsd_eval.ingest.base import IngestLog, shorten

LINE_LIMIT = 256 * 1024 * 1024
JSON_LIMIT = 4 * 1024 * 1024 * 1024
HEAD_LIMIT = 16 * 1024 * 1024
PACKED = (".gz", ".bz2", ".xz", ".zst")
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)
_BOM = b"\xef\xbb\xbf"


def open_log(path: Path) -> BinaryIO:
    """A file's bytes, unpacked on the way when its name ends in .gz, .bz2, .xz or .zst."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path, "rb"))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    if path.suffix == ".zst":
        from pyarrow import CompressedInputStream, OSFile

        return cast(BinaryIO, io.BufferedReader(CompressedInputStream(OSFile(str(path)), "zstd")))
    return path.open("rb")


def plain_name(path: Path) -> str:
    """The file's name without an ending that says how it is packed."""
    return path.stem if path.suffix in PACKED else path.name


def suffix_of(path: Path) -> str:
    """``.jsonl`` for ``log.jsonl`` and ``log.jsonl.gz``."""
    return Path(plain_name(path)).suffix


def iter_rows(path: Path, log: IngestLog) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``file:line``, object) of a JSON Lines file in constant memory; malformed lines go to the log.

    A file that holds one JSON list of objects, as some tools write, is read whole and gives ``file entry N``.
    """
    try:
        with open_log(path) as file:
            first = file.readline(LINE_LIMIT).removeprefix(_BOM)
            if _is_list(first):
                rows = load_json(path)
                if not isinstance(rows, list):
                    raise ValueError(f"{path}: expected JSON Lines or a list of objects, got {type(rows).__name__}")
                entries: Iterator[tuple[str, Any]] = ((f"{path} entry {at}", row) for at, row in enumerate(rows, 1))
            else:
                entries = _lines(path, file, first, log)
            for where, row in entries:
                if isinstance(row, dict):
                    yield where, row
                else:
                    log.bad(where, f"expected a JSON object, got {type(row).__name__}")
    except _BROKEN as error:
        log.bad(str(path), f"cannot be read to its end: {type(error).__name__}: {error}")


def _is_list(first: bytes) -> bool:
    """Whether a file that begins with this line is one JSON list of objects."""
    start = first.strip()
    if not start.startswith(b"["):
        return False
    inside = start[1:].lstrip()
    return not inside or inside.startswith(b"{")


def _lines(path: Path, file: BinaryIO, first: bytes, log: IngestLog) -> Iterator[tuple[str, Any]]:
    lines = itertools.chain([first], iter(lambda: file.readline(LINE_LIMIT), b""))
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if len(line) == LINE_LIMIT and not line.endswith(b"\n"):
            while (rest := file.readline(LINE_LIMIT)) and not rest.endswith(b"\n"):
                pass
            log.bad(where, f"line longer than {LINE_LIMIT} bytes")
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                log.bad(where, f"not JSON: {type(error).__name__}: {error}")
                continue
            yield where, row


def load_json(path: Path) -> Any:
    """A whole JSON file; held in memory, so at most 4 GiB."""
    try:
        with open_log(path) as file:
            data = file.read(JSON_LIMIT + 1)
    except _BROKEN as error:
        raise ValueError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
    if len(data) > JSON_LIMIT:
        raise ValueError(f"{path}: {JSON_LIMIT} bytes of JSON or more do not fit in memory; convert it to JSON Lines")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {type(error).__name__}: {shorten(str(error))}") from None


def first_row(path: Path) -> dict[str, Any]:
    """The first readable object among the first 20 lines (or of the list) of a file, ``{}`` if there is none."""
    if not path.is_file() or suffix_of(path) not in (".jsonl", ".json"):
        return {}
    start = head(path, HEAD_LIMIT).lstrip("\ufeff \r\n\t")
    decoder = json.JSONDecoder()
    for line in [start[1:]] if start.startswith("[") else start.split("\n", 20)[:20]:
        try:
            row, _ = decoder.raw_decode(line.strip())
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            return row
    return {}


def head(path: Path, size: int = 65536) -> str:
    """The beginning of a file as text, for recognising its format; what can be read of it, if it is damaged."""
    parts: list[bytes] = []
    with contextlib.suppress(*_BROKEN), open_log(path) as file:
        while sum(map(len, parts)) < size and (block := file.read(min(size, 65536))):
            parts.append(block)
    return b"".join(parts)[:size].decode("utf-8", "replace")


def files_of(path: Path, *patterns: str) -> list[Path]:
    """The file itself, or all files below a folder that match a pattern, packed ones too, sorted by name.

    Files and folders whose names begin with a dot are passed over.
    """
    if path.is_file():
        return [path]
    found = {p for pattern in patterns for end in ("", *PACKED) for p in path.rglob(pattern + end) if p.is_file()}
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))


class SeveralTasks(ValueError):
    """A log holds several tasks and none, or one that it lacks, was chosen; ``tasks`` lists them."""

    def __init__(self, message: str, tasks: Sequence[str]):
        super().__init__(message)
        self.tasks = tuple(tasks)


def one_task(tasks: Sequence[str], task: str | None, where: Path) -> str:
    """The task asked for, or the only one; several, or an absent one, raise with the list."""
    known = sorted(set(tasks))
    if task is None and len(known) == 1:
        return known[0]
    if task in known:
        return str(task)
    if not known:
        raise ValueError(f"{where}: no task found in it")
    wanted = "holds several tasks" if task is None else f"has no task {task!r}"
    raise SeveralTasks(
        f"{where} {wanted}: {', '.join(known)}. Choose one with --task, or take all as one set with --all-tasks.", known
    )


def one_run(files: Sequence[Path], task: str, where: Path) -> Path:
    """The only file of a task; several raise with the list, because a sample set holds one run."""
    if len(files) > 1:
        listed = ", ".join(map(str, files))
        raise ValueError(f"{where} holds {len(files)} runs of task {task}: {listed}. Give one of the files.")
    return files[0]
