"""What every adapter shares: the source it opens, the log of what was wrong, and reading lines and JSON safely.

Nothing here or in the adapters runs code from a log, unpickles, or uses a name from a log as a path.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opsd_eval.answers import extract_boxed
from opsd_eval.records import Problem, Sample, sha256_text

#: What reading a foreign entry may raise when it is not laid out as its format says.
MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError)
LINE_LIMIT = 256 * 1024 * 1024
JSON_LIMIT = 4 * 1024 * 1024 * 1024
Item = tuple[Problem, Sequence[Sample]]


class IngestLog:
    """Counts what was wrong with a source; with ``strict`` the first malformed entry raises instead."""

    KEPT = 1000

    def __init__(self, *, strict: bool = False):
        self.strict = strict
        self.n_malformed = 0
        self.malformed: list[str] = []
        self.notes: Counter[str] = Counter()

    def bad(self, where: str, reason: object) -> None:
        """Report one entry that is left out; ``where`` names file and line (or archive member)."""
        message = f"{where}: {_short(str(reason))}"
        if self.strict:
            raise ValueError(f"{message} (drop --strict to keep the rest)")
        self.n_malformed += 1
        if len(self.malformed) < self.KEPT:
            self.malformed.append(message)

    def note(self, text: str) -> None:
        """Count something the reader of the numbers should know."""
        self.notes[text] += 1


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


@dataclass(frozen=True)
class Source:
    """An opened log: its files, what it says about the run, and its problems with their samples, in file order.

    ``items(log)`` may give a problem several times, with new samples each time. ``facts`` are RunRecord fields.
    """

    files: tuple[Path, ...]
    benchmark: str
    items: Callable[[IngestLog], Iterator[Item]]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A log format: ``matches(path)`` recognises a file or folder, ``open(path, task)`` reads it.

    ``tested`` says how its fixture was made: by which harness and version, or by hand from a description.
    """

    name: str
    summary: str
    tested: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, str | None], Source]


# --- reading ----------------------------------------------------------------------------------------------


def iter_rows(path: Path, log: IngestLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON Lines file in constant memory; malformed lines go to the log."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_LIMIT):
            number += 1
            if len(line) == LINE_LIMIT and not line.endswith(b"\n"):
                while (rest := file.readline(LINE_LIMIT)) and not rest.endswith(b"\n"):
                    pass
                log.bad(f"{path}:{number}", f"line longer than {LINE_LIMIT} bytes")
                continue
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                log.bad(f"{path}:{number}", f"not JSON: {type(error).__name__}: {error}")
                continue
            if not isinstance(row, dict):
                log.bad(f"{path}:{number}", f"expected a JSON object, got {type(row).__name__}")
                continue
            yield number, row


def load_json(path: Path) -> Any:
    """A whole JSON file; held in memory, so at most 4 GiB."""
    size = path.stat().st_size
    if size > JSON_LIMIT:
        raise ValueError(f"{path}: {size} bytes of JSON do not fit in memory; for inspect logs use the .eval format")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {type(error).__name__}: {_short(str(error))}") from None


def first_row(path: Path) -> dict[str, Any]:
    """The first readable object of a JSON Lines file, ``{}`` if there is none among the first lines."""
    try:
        return next((row for number, row in iter_rows(path, IngestLog()) if number <= 20), {})
    except OSError:
        return {}


def head(path: Path, size: int = 65536) -> str:
    """The beginning of a file as text, for recognising its format."""
    with path.open("rb") as file:
        return file.read(size).decode("utf-8", "replace")


def files_of(path: Path, pattern: str) -> list[Path]:
    """The file itself, or all files below a folder that match the pattern, sorted by name."""
    return [path] if path.is_file() else sorted(p for p in path.rglob(pattern) if p.is_file())


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
    raise ValueError(f"{where} {wanted}: {', '.join(known)}. A sample set holds one: choose it with --task.")


# --- values -----------------------------------------------------------------------------------------------


def text_or_none(value: Any) -> str | None:
    """A text as it is, a finite number as its shortest text, anything else (NaN too) ``None``."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return None


def int_or_none(value: Any) -> int | None:
    """A whole number >= 0, else ``None``."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def texts_of(value: Any, key: str) -> list[str]:
    """A list of completions; anything else raises, a missing completion among them too."""
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{key} should be a list of texts, got {_short(repr(value), 80)}")
    return value


def entry(values: Any, index: int, size: int) -> Any:
    """``values[index]`` when ``values`` is a list of this size, else ``None``."""
    return values[index] if isinstance(values, list) and len(values) == size else None


def gold_and_reference(target: str | None) -> tuple[str | None, str | None]:
    r"""Split a gold target into (final answer, worked solution).

    A target with ``####`` (GSM8K) or a ``\boxed{}`` is a solution that contains its answer; any other target is the
    answer itself and there is no solution.
    """
    if target is None or not target.strip():
        return None, None
    if "####" in target:
        return target.rsplit("####", 1)[1].strip() or None, target
    boxed = extract_boxed(target)
    return (boxed, target) if boxed is not None else (target.strip(), None)


def with_thinking(reasoning: str | None, text: str) -> str:
    """A completion with its separately logged reasoning put back in front, as models write it."""
    if not reasoning or not reasoning.strip() or "</think>" in text or reasoning.strip() in text:
        return text
    return f"<think>\n{reasoning}\n</think>\n\n{text}"


def prompt_hash(prompt: Any) -> str | None:
    """Hash of a prompt as text (a chat as compact JSON), so that two runs' prompts can be compared."""
    if prompt is None:
        return None
    return sha256_text(prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True))


_NAMES = r"api[_-]?key|secret|passw|credential|authorization|(?:access|auth|hf|hub|api|bearer)[_-]?token"
_SECRET = re.compile(rf"{_NAMES}|^token$", re.IGNORECASE)
_ASSIGNED = re.compile(rf"((?:{_NAMES})[\w-]{{0,30}})(=|: ?)(?:bearer )?[^,\s}}\"']+", re.IGNORECASE)
_IN_URL = re.compile(r"://[^/\s@]{1,200}@")


def redact(value: Any) -> Any:
    """A copy of a log's settings without secrets: keys and ``name=value`` texts that look like credentials."""
    if isinstance(value, Mapping):
        return {k: "[removed]" if _SECRET.search(str(k)) and v is not None else redact(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(v) for v in value]
    if isinstance(value, str):
        return _IN_URL.sub("://[removed]@", _ASSIGNED.sub(r"\1\2[removed]", value))
    return value


class Namer:
    """Ids for problems that have none: a hash of the question, numbered when one question occurs again in a file."""

    def __init__(self, prefix: str = ""):
        self.prefix = f"{prefix}/" if prefix else ""
        self.seen: Counter[str] = Counter()

    def __call__(self, question: str) -> str:
        """The id for the next problem with this question."""
        key = sha256_text(question)[:12]
        self.seen[key] += 1
        count = self.seen[key]
        return f"{self.prefix}{key}" + (f"#{count}" if count > 1 else "")
