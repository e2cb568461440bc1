"""From an opened log to a sample set on disk: append-only, safe to kill and to run again."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opsd_eval.ingest.base import IngestLog, Item, Source
from opsd_eval.locks import locked
from opsd_eval.records import (
    Problem,
    Sample,
    append_jsonl,
    append_samples,
    new_run_record,
    read_json,
    read_jsonl,
    read_problems,
    read_run,
    sample_from_row,
    sha256_text,
    write_json,
    write_run,
)
from opsd_eval.secrets import redact

REPORT = "ingest.json"
_LOCK = ".ingest.lock"
_OURS = ("run.json", _LOCK)
_BATCH_ROWS, _BATCH_CHARS = 2000, 16_000_000


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did; also written to ``ingest.json``, whose presence says that the ingest ran to its end."""

    format: str
    out: str
    n_problems: int
    n_samples: int
    n_new: int
    n_malformed: int
    malformed: tuple[str, ...]
    notes: dict[str, int]
    finished: str

    def __str__(self) -> str:
        lines = [f"{self.out}: {self.n_problems} problems, {self.n_samples} samples ({self.n_new} new), {self.format}"]
        if self.n_malformed:
            lines.append(f"{self.n_malformed} malformed entries left out:")
            lines += [f"  {text}" for text in self.malformed[:10]]
            if self.n_malformed > 10:
                lines.append(f"  … and {self.n_malformed - 10} more; see {REPORT}")
        lines += [f"note: {text} ({count})" for text, count in self.notes.items()]
        return "\n".join(lines)


def write_set(source: Source, form: str, out: Path, log: IngestLog) -> IngestReport:
    """Write the sample set, adding only what is new; an ``out`` made from something else is refused."""
    identity = {"format": form, "benchmark": source.benchmark, "files": [_fingerprint(p) for p in source.files]}
    with _only_one(out):
        if (done := _finished(out, identity, strict=log.strict)) is not None:
            return done
        _claim(out, identity, source)
        (out / REPORT).unlink(missing_ok=True)
        writer = _Writer(out)
        writer.add(source.items(log), log)
        report = IngestReport(
            form, str(out), len(writer.problems), writer.n_kept + writer.n_new, writer.n_new, log.n_malformed,
            tuple(log.malformed), dict(log.notes), datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(out / REPORT, asdict(report))
    return report


def _finished(out: Path, identity: dict[str, Any], *, strict: bool) -> IngestReport | None:
    """The report of an earlier ingest of exactly these files that ran to its end and is still whole."""
    if not (out / REPORT).exists() or not (out / "run.json").exists():
        return None
    stored = read_json(out / REPORT)
    if read_run(out).config.get("source") != identity or (strict and stored["n_malformed"]):
        return None
    if any(stored[f"n_{kind}"] != _count_lines(out / f"{kind}.jsonl") for kind in ("problems", "samples")):
        return None
    return IngestReport(**{**stored, "n_new": 0, "malformed": tuple(stored["malformed"])})


def _count_lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


@contextlib.contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Hold the folder's lock (it goes with the process); a second process, or a folder of something else, is refused.

    The lock file names the process that holds it.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not any((out / n).exists() for n in _OURS))):
        raise ValueError(f"{out} exists and is no sample set: give a new folder with --out")
    with locked(out, f"{out} is being written by another ingest (process {{holder}}); wait or stop it", name=_LOCK):
        yield


def discard(out: Path) -> None:
    """Remove a sample set without a sample, so that the folder is free for another try."""
    for name in (*_OURS, REPORT, "problems.jsonl", "samples.jsonl"):
        (out / name).unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"name": path.name, "path": str(path.resolve()), "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _claim(out: Path, identity: dict[str, Any], source: Source) -> None:
    """Write ``run.json`` before any work, or check that the one there was made from the same log."""
    facts = redact(dict(source.facts))
    config = {"source": identity, **facts.pop("config", {})}
    if (out / "run.json").exists():
        before = (read_run(out).config or {}).get("source")
        if why := _difference(before, identity):
            raise ValueError(f"{out} was made from another source: {why}. Give a new folder with --out.")
    write_run(out, new_run_record(out.name, "ingest", config=config, **facts))


def _difference(before: Any, now: dict[str, Any]) -> str:
    """Why the two sources differ; empty if ``now`` is ``before``, possibly with further files."""
    if not isinstance(before, dict):
        return "it was not ingested"
    for key in ("format", "benchmark"):
        if before.get(key) != now[key]:
            return f"{key} was {before.get(key)!r}, is {now[key]!r}"
    present = {(f["name"], f["sha256"]) for f in now["files"]}
    for file in before.get("files", []):
        if (file["name"], file["sha256"]) not in present:
            return f"{file['name']} is missing or has changed since"
    return ""


class _Draws:
    """Which draws of which problems there are, some 30 bytes a problem: bits for the first thousand, pairs beyond.

    Bits alone would take 125 kB for a single draw numbered 1,000,000, and a log can hold one for every problem.
    """

    BITS = 1024

    def __init__(self) -> None:
        self.bits: dict[str, int] = {}
        self.beyond: set[tuple[str, int]] = set()

    def __contains__(self, key: tuple[str, int]) -> bool:
        problem_id, draw = key
        return bool(self.bits.get(problem_id, 0) >> draw & 1) if draw < self.BITS else key in self.beyond

    def add(self, problem_id: str, draw: int) -> None:
        """Note one draw."""
        if draw < self.BITS:
            self.bits[problem_id] = self.bits.get(problem_id, 0) | 1 << draw
        else:
            self.beyond.add((problem_id, draw))


class _Writer:
    """Appends problems before their samples, in batches, skipping what is on disk already."""

    def __init__(self, out: Path):
        self.out = out
        self.problems: dict[str, str] = {}
        self.before, self.drawn = _Draws(), _Draws()  # on disk from an earlier run of this ingest; written by this one
        self.n_kept = self.n_new = 0
        if (out / "problems.jsonl").exists():
            self.problems = {key: _digest(value) for key, value in read_problems(out).items()}
        if (out / "samples.jsonl").exists():
            for row in read_jsonl(out / "samples.jsonl"):
                sample = sample_from_row(row, str(out / "samples.jsonl"))
                self.before.add(sample.problem_id, sample.draw)
                self.n_kept += 1
        self.new_problems: list[Problem] = []
        self.new_samples: list[Sample] = []
        self.chars = 0

    def add(self, items: Iterable[Item], log: IngestLog) -> None:
        from tqdm import tqdm

        for problem, samples in tqdm(items, desc="ingest", unit=" rows", mininterval=1.0, leave=False, disable=None):
            if not problem.problem_id:
                log.bad("a problem", "its id is empty")
                continue
            known = self.problems.get(problem.problem_id)
            if known is None:
                self.problems[problem.problem_id] = _digest(problem)
                self.new_problems.append(problem)
            elif known != _digest(problem):
                log.bad(f"problem {problem.problem_id!r}", "appears with another question or answer; the first is kept")
                continue
            for sample in samples:
                self._sample(sample, log)
            if len(self.new_samples) >= _BATCH_ROWS or self.chars >= _BATCH_CHARS:
                self.flush()
        self.flush()

    def _sample(self, sample: Sample, log: IngestLog) -> None:
        key = sample.problem_id, sample.draw
        if sample.draw > 1_000_000:
            log.bad(f"problem {sample.problem_id!r}", f"draw {sample.draw} is larger than 1,000,000")
            return
        if key in self.before:
            return
        if key in self.drawn:
            log.bad(f"problem {sample.problem_id!r}", f"draw {sample.draw} appears twice; the first is kept")
            return
        self.drawn.add(*key)
        self.new_samples.append(sample)
        self.chars += len(sample.text or "")

    def flush(self) -> None:
        append_jsonl(self.out / "problems.jsonl", map(asdict, self.new_problems))
        append_samples(self.out, self.new_samples)
        self.n_new += len(self.new_samples)
        self.new_problems, self.new_samples, self.chars = [], [], 0


def _digest(problem: Problem) -> str:
    return sha256_text("\0".join((problem.question, problem.answer or "")))
