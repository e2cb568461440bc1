"""Where each problem's samples and grades stand in their files, so that a set is read problem by problem.

The index holds twelve bytes a line and no text: memory does not grow with the completions.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from opsd_eval.records import GRADE_KEYS, SAMPLE_KEYS, Problem, Sample, check_types, read_problems

_HEAD = b'{"problem_id": "'


class Offsets:
    """Byte offsets of the lines of one JSON Lines file, grouped by problem."""

    def __init__(self, path: Path, numbers: Mapping[str, int]) -> None:
        owners, offsets = array("i"), array("q")
        at = 0
        with path.open("rb") as file:
            for line_number, line in enumerate(file, start=1):
                start, at = at, at + len(line)
                if not line.endswith(b"\n") or not line.strip():
                    continue  # a torn last line is a line in flight, not data
                problem_id = _problem_id(line, path, line_number)
                number = numbers.get(problem_id)
                if number is None:
                    raise ValueError(f"{path}:{line_number}: problem_id {problem_id!r} is not in problems.jsonl")
                owners.append(number)
                offsets.append(start)
        owner_numbers = np.frombuffer(owners, np.int32) if owners else np.empty(0, np.int32)
        order = np.argsort(owner_numbers, kind="stable")
        self.offsets = (np.frombuffer(offsets, np.int64) if offsets else np.empty(0, np.int64))[order]
        self.starts = np.searchsorted(owner_numbers[order], np.arange(len(numbers) + 1))

    def of(self, number: int) -> list[int]:
        """Offsets of the lines of one problem, in file order."""
        return self.offsets[self.starts[number] : self.starts[number + 1]].tolist()

    def counts(self) -> np.ndarray:
        """Lines per problem."""
        return np.diff(self.starts)


def _problem_id(line: bytes, path: Path, number: int) -> Any:
    if line.startswith(_HEAD):
        end = line.find(b'"', len(_HEAD))
        plain = line[len(_HEAD) : end]
        if end > 0 and b"\\" not in plain:
            return plain.decode("utf-8", "replace")
    try:
        found = json.loads(line)["problem_id"]
        if not isinstance(found, str):
            raise TypeError(f"problem_id should be of type str, not {type(found).__name__}")
        return found
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}:{number}: {type(error).__name__}: {error}") from None


class SampleIndex:
    """A sample set on disk: its problems, and where their samples and grades are."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.problems: dict[str, Problem] = read_problems(self.folder)
        numbers = {problem_id: number for number, problem_id in enumerate(self.problems)}
        samples, grades = self.folder / "samples.jsonl", self.folder / "grades.jsonl"
        if not samples.exists():
            raise ValueError(f"{samples}: no such file; is {folder} a sample set?")
        if not grades.exists():
            raise ValueError(f"{grades}: no such file; run `opsd-eval grade {folder}` first")
        self.samples = Offsets(samples, numbers)
        self.grades = Offsets(grades, numbers)
        probes = self.folder / "probes.jsonl"
        self.probes = Offsets(probes, numbers) if probes.exists() else None

    def blocks(self, samples_a_block: int = 800) -> list[list[int]]:
        """Problem numbers in order, cut into blocks of about this many samples."""
        found: list[list[int]] = [[]]
        held = 0
        for number, count in enumerate(self.samples.counts().tolist()):
            if held >= samples_a_block:
                found.append([])
                held = 0
            found[-1].append(number)
            held += count
        return found

    def task(self, block: Sequence[int], *, probes: bool = False) -> dict[str, Any]:
        """What a worker needs to read a block of problems (and, on request, its probes)."""
        task: dict[str, Any] = {
            "folder": str(self.folder),
            "problems": [[number, self.samples.of(number), self.grades.of(number)] for number in block],
        }
        if probes and self.probes is not None:
            task["probes"] = {str(number): self.probes.of(number) for number in block}
        return task


def read_block(task: Mapping[str, Any]) -> list[tuple[int, tuple[Sample, ...]]]:
    """(problem number, samples by draw) for each problem of a task."""
    folder = Path(task["folder"])
    with (folder / "samples.jsonl").open("rb") as samples, (folder / "grades.jsonl").open("rb") as grades:
        return [
            (number, _read_problem(samples, grades, sample_offsets, grade_offsets))
            for number, sample_offsets, grade_offsets in task["problems"]
        ]


def read_probes(task: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Problem number → its rows of ``probes.jsonl``; empty for a task without probes."""
    if "probes" not in task:
        return {}
    with (Path(task["folder"]) / "probes.jsonl").open("rb") as file:
        return {int(number): [_row(file, at) for at in offsets] for number, offsets in task["probes"].items()}


def _read_problem(
    samples: BinaryIO, grades: BinaryIO, sample_offsets: Sequence[int], grade_offsets: Sequence[int]
) -> tuple[Sample, ...]:
    marks: dict[int, Mapping[str, Any]] = {}
    for offset in grade_offsets:
        row = {key: value for key, value in _row(grades, offset).items() if key in GRADE_KEYS}
        check_types(row, grades.name)
        marks[row.get("draw", -1)] = row
    found: dict[int, Sample] = {}
    for offset in sample_offsets:
        row = _row(samples, offset)
        draw = row.get("draw")
        if type(draw) is not int:
            raise ValueError(f"{samples.name}: the line at byte {offset} needs an integer draw")
        if draw in found:
            raise ValueError(f"{samples.name}: problem {row['problem_id']!r} has draw {draw} twice")
        mark = marks.get(draw, {})
        values: dict[str, Any] = {key: row.get(key) for key in SAMPLE_KEYS}
        check_types(values, samples.name)
        values.update((key, mark.get(key)) for key in GRADE_KEYS[2:])
        found[draw] = Sample(**values)
    return tuple(found[draw] for draw in sorted(found))


def _row(file: BinaryIO, offset: int) -> dict[str, Any]:
    file.seek(offset)
    try:
        row = json.loads(file.readline())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name}: the line at byte {offset} is malformed: {error}") from None
    if not isinstance(row, dict) or "problem_id" not in row:
        raise ValueError(f"{file.name}: the line at byte {offset} is not a sample or grade")
    return row
