r"""Grade completions against gold answers, once per (problem_id, draw), without ever running what they contain.

``answer_strict`` is the last balanced ``\boxed{}`` (or GSM8K's last line ``#### number``); ``answer_relaxed`` has
fallbacks (opsd_eval/answers.py).
``correct`` compares the strict answer with the gold one: by normal form and exact numbers first, by Math-Verify in a
killable process otherwise. ``outcome`` is the first that applies of right, loop, truncated, off_language, no_answer,
wrong. A completion without text, or a problem without a gold answer, stays ungraded (``correct`` and ``outcome``
null): that is not the same as wrong. A comparison that had to be given up counts as not equal, and is counted.
"""

from __future__ import annotations

import argparse
import atexit
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from opsd_eval.answers import compare_exactly, extract_boxed, extract_relaxed, extract_strict
from opsd_eval.grading_worker import AlgebraJudge
from opsd_eval.locks import locked
from opsd_eval.records import Problem, Sample, mend_jsonl, read_problems, sample_from_row

__all__ = ["Grade", "answers_equal", "extract_boxed", "grade_sample", "grade_set", "grade_text"]

TASK_LINES = 2000
SERIAL_LINES = 4000
ALTERNATIVES = 64


@dataclass(frozen=True)
class Grade:
    """Strict and relaxed answer of one completion and whether each is correct (``None`` without a gold answer)."""

    answer_strict: str | None
    answer_relaxed: str | None
    correct: bool | None
    correct_relaxed: bool | None


Judge = Callable[[str], bool | None]
_JUDGE = AlgebraJudge()
atexit.register(_JUDGE.close)


@lru_cache(maxsize=16384)
def answers_equal(gold: str, candidate: str) -> bool:
    """Whether a candidate answer equals the gold one; remembered per pair, at most 1.5 s of processor time a pair."""
    decided = compare_exactly(gold, candidate)
    return decided if decided is not None else bool(_JUDGE.equal(gold, candidate))


def given_up() -> int:
    """Comparisons this process gave up so far (too large, too slow, out of memory); each counted as not equal."""
    return _JUDGE.given_up


def grade_text(text: str | None, gold: str | None, *, judge: Judge | None = None) -> Grade:
    """Extract and judge the answer of one completion.

    No text: nothing is known. No gold answer: the answers are extracted, ``correct`` stays ``None``. ``judge`` says
    whether an answer is right where that takes more than comparing it with the gold one.
    """
    if text is None:
        return Grade(None, None, None, None)
    strict = extract_strict(text)
    relaxed = strict if strict is not None else extract_relaxed(text)
    if gold is None or not str(gold).strip():
        return Grade(strict, relaxed, None, None)
    right = judge or (lambda answer: answers_equal(str(gold), answer))
    correct = right(strict) if strict is not None else False
    if relaxed == strict:
        return Grade(strict, relaxed, correct, correct)
    return Grade(strict, relaxed, correct, right(relaxed) if relaxed is not None else False)


def grade_problem_text(problem: Problem, text: str | None) -> Grade:
    """:func:`grade_text` by the rules of the problem's benchmark."""
    if problem.benchmark.startswith("reasoning_gym.") and problem.metadata.get("scorer") == "reasoning_gym":
        return grade_text(text, problem.answer, judge=lambda answer: _gym_right(problem, answer))
    others = problem.metadata.get("accepted_answers")
    if isinstance(others, list) and len(others) > 1:  # alternatives, any of which is right
        return grade_text(text, problem.answer, judge=lambda answer: _any_right(others, answer))
    return grade_text(text, problem.answer)


def _any_right(accepted: list[Any], answer: str) -> bool:
    """Whether an answer equals one of those accepted; only the first 64 go on to the algebra system, at 1.5 s each."""
    return any(compare_exactly(str(one), answer) for one in accepted) or any(
        answers_equal(str(one), answer) for one in accepted[:ALTERNATIVES]
    )


def _gym_right(problem: Problem, answer: str) -> bool | None:
    """Full credit by the family's own rule, or exact equality; ``None`` where no rule may be run on model output."""
    from opsd_eval.gym import gym_correct

    verdict = gym_correct(problem, answer)
    return verdict if verdict is not False else compare_exactly(str(problem.answer), answer) is True


def grade_sample(problem: Problem, sample: Sample) -> Sample:
    """The sample with its five grading fields filled in."""
    grade = grade_problem_text(problem, sample.text)
    return replace(
        sample,
        answer_strict=grade.answer_strict,
        answer_relaxed=grade.answer_relaxed,
        correct=grade.correct,
        correct_relaxed=grade.correct_relaxed,
        outcome=outcome_of(problem, sample, grade),
    )


def outcome_of(problem: Problem, sample: Sample, grade: Grade) -> str | None:
    """The waterfall: right if and only if strictly correct, else the first failure that applies."""
    from opsd_eval.metrics.language import is_off_language
    from opsd_eval.metrics.loops import is_loop

    if grade.correct is None or sample.text is None:
        return None
    if grade.correct:
        return "right"
    if is_loop(sample.text):
        return "loop"
    if sample.finish_reason == "length":
        return "truncated"
    if is_off_language(problem.question, sample.text):
        return "off_language"
    return "no_answer" if grade.answer_strict is None else "wrong"


# --- sample sets ------------------------------------------------------------------------------------------


def grade_set(path: Path | str, *, force: bool = False, processes: int | None = None) -> dict[str, int]:
    """Grade what is not graded yet, appending to ``grades.jsonl`` in the order of ``samples.jsonl``.

    With ``force`` everything is graded again into a new file that replaces the old one when it is whole; samples are
    never touched. Streams: memory does not grow with the text. Returns counts: ``graded``, ``kept``, ``given_up``.
    """
    from opsd_eval.workers import default_processes

    folder = Path(path)
    read_problems(folder)
    target = folder / ("grades.jsonl.new" if force else "grades.jsonl")
    refusal = f"{folder} is being graded by process {{holder}}; wait for it or stop it"
    with locked(folder, refusal, name=".grading.lock"):
        if force:
            target.unlink(missing_ok=True)
        if not target.exists():  # a touch would make what was measured from it look old
            target.touch()
        mend_jsonl(target)
        done = _graded_keys(target)
        lines, pending = _count_pending(folder, done)
        processes = processes or default_processes()
        counts = {"graded": 0, "kept": lines - pending, "given_up": 0}
        if pending or force:
            _grade_into(target, _tasks(folder, done), pending=pending, processes=processes, counts=counts)
        if force:
            target.replace(folder / "grades.jsonl")
    return counts


def _grade_into(
    target: Path, tasks: Iterator[dict[str, Any]], *, pending: int, processes: int, counts: dict[str, int]
) -> None:
    from tqdm import tqdm

    from opsd_eval.workers import run_tasks

    processes = processes if pending > SERIAL_LINES else 1
    with target.open("a", encoding="ascii") as file, tqdm(total=pending, unit="sample", disable=None) as bar:
        for answer in run_tasks("opsd_eval.grading:grade_lines", tasks, processes=processes):
            file.write(answer["lines"])
            file.flush()
            counts["graded"] += answer["graded"]
            counts["given_up"] += answer["given_up"]
            bar.update(answer["graded"])


def _graded_keys(path: Path) -> set[int]:
    """Hashes of the (problem_id, draw) pairs already in a grades file."""
    if not path.exists():
        return set()
    with path.open("rb") as file:
        return {_key(line, path, number) for number, line in enumerate(file, start=1) if line.strip()}


def _key(line: bytes, path: Path, number: int) -> int:
    try:
        row = json.loads(line)
        return hash((row["problem_id"], row["draw"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}:{number}: not a sample or grade: {type(error).__name__}: {error}") from None


def _count_pending(folder: Path, done: set[int]) -> tuple[int, int]:
    """Lines of ``samples.jsonl`` and how many of them are not graded."""
    path = folder / "samples.jsonl"
    if not path.exists():
        raise ValueError(f"{path}: no such file; is {folder} a sample set?")
    lines = sum(1 for _ in _whole_lines(path))
    if not done:
        return lines, lines
    pending = sum(1 for number, _, line in _whole_lines(path) if _key(line, path, number) not in done)
    return lines, pending


def _whole_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number, byte offset, line) of every non-blank line that ends in a newline (a torn last one is left)."""
    at = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n") and line.strip():
                yield number, at, line
            at += len(line)


def _tasks(folder: Path, done: set[int]) -> Iterator[dict[str, Any]]:
    """Byte ranges of about 2,000 lines (or 8 MB) to grade, each with the offsets to skip."""
    path = folder / "samples.jsonl"
    task: dict[str, Any] | None = None
    count = 0
    for number, at, line in _whole_lines(path):
        if task is None:
            task, count = {"folder": str(folder), "start": at, "line": number, "skip": []}, 0
        if done and _key(line, path, number) in done:
            task["skip"].append(at)
        count += 1
        task["end"] = at + len(line)
        if count >= TASK_LINES or task["end"] - task["start"] > 8_000_000:
            yield task
            task = None
    if task is not None:
        yield task


@lru_cache(maxsize=2)
def _problems(folder: str, stamp: float) -> Mapping[str, Problem]:
    return read_problems(folder)


def grade_lines(task: dict[str, Any]) -> dict[str, Any]:
    """Grade the lines of one byte range; returns them as the text to append. Runs in a worker process."""
    from opsd_eval.metrics.base import forget_texts

    folder = Path(task["folder"])
    path = folder / "samples.jsonl"
    problems = _problems(task["folder"], (folder / "problems.jsonl").stat().st_mtime)
    skip, before, lines = set(task["skip"]), given_up(), []
    with path.open("rb") as file:
        file.seek(task["start"])
        number = task["line"] - 1
        while (at := file.tell()) < task["end"]:
            line = file.readline()
            number += 1
            if at in skip or not line.strip():
                continue
            lines.append(_grade_line(line, problems, f"{path}:{number}"))
    forget_texts()
    return {"lines": "".join(lines), "graded": len(lines), "given_up": given_up() - before}


def _grade_line(line: bytes, problems: Mapping[str, Problem], where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
    sample = sample_from_row(row, where)
    problem = problems.get(sample.problem_id)
    if problem is None:
        raise ValueError(f"{where}: problem_id {sample.problem_id!r} is not in problems.jsonl")
    grade = grade_problem_text(problem, sample.text)
    return json.dumps({
        "problem_id": sample.problem_id,
        "draw": sample.draw,
        "answer_strict": grade.answer_strict,
        "answer_relaxed": grade.answer_relaxed,
        "correct": grade.correct,
        "correct_relaxed": grade.correct_relaxed,
        "outcome": outcome_of(problem, sample, grade),
    }) + "\n"


# --- command line -----------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-eval grade``."""
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="sample set folders")
    parser.add_argument("--force", action="store_true", help="grade everything again (samples stay as they are)")
    parser.add_argument("--processes", type=int, default=None, help="worker processes (default: the cores)")


def run(args: argparse.Namespace) -> int:
    """Grade each set and print what was done."""
    for folder in args.sets:
        counts = grade_set(folder, force=args.force, processes=args.processes)
        line = f"{folder}: graded {counts['graded']:,}, already graded {counts['kept']:,}"
        if counts["given_up"]:
            line += f"; {counts['given_up']:,} comparisons given up (too large or slow), counted as not equal"
        print(line)
    return 0
