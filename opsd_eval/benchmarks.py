"""Benchmarks by name: the embedded testbed, reasoning-gym families, JSON Lines files, and hub data sets.

| name | problems |
|---|---|
| ``testbed.<world>.<split>`` | the embedded testbed |
| ``reasoning_gym.<family>[.<level>]`` | see :mod:`opsd_eval.gym` |
| ``jsonl:PATH[?question=COLUMN&answer=COLUMN…]`` | one JSON object a line |
| ``hf:NAME[?…]`` | a short name of :data:`HUB`, or any ``owner/name`` with a column map |

``?style=NAME`` (or ``&style=NAME`` after other options) gives the problems another prompt style of
``opsd_eval/prompts.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from opsd_eval.gym import REASONING_GYM_FAMILIES, gym_correct, load_gym
from opsd_eval.names import unknown_name
from opsd_eval.prompts import styled
from opsd_eval.records import Problem, problem_from_row, read_jsonl

__all__ = ["HUB", "REASONING_GYM_FAMILIES", "HubData", "benchmark_names", "gym_correct", "load_benchmark"]

COLUMNS = ("problem_id", "question", "answer", "reference", "cluster")


@dataclass(frozen=True)
class HubData:
    """A data set on a hub and which of its columns hold what.

    ``verified`` is false where repository name and columns could not be checked against the hub when written.
    """

    repo: str
    columns: Mapping[str, str]
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    answer_after: str | None = None  # the answer is the text after the last occurrence of this mark
    verified: bool = False


HUB = {
    "aime24": HubData(
        "HuggingFaceH4/aime_2024",
        {"problem_id": "id", "question": "problem", "answer": "answer", "reference": "solution"}, split="train",
    ),
    "aime25": HubData("math-ai/aime25", {"problem_id": "id", "question": "problem", "answer": "answer"}),
    "hmmt25": HubData(
        "MathArena/hmmt_feb_2025", {"problem_id": "problem_idx", "question": "problem", "answer": "answer"},
        split="train",
    ),
    "math500": HubData(
        "HuggingFaceH4/MATH-500",
        {"problem_id": "unique_id", "question": "problem", "answer": "answer", "reference": "solution",
         "cluster": "subject"},
    ),
    "gsm8k": HubData(
        "openai/gsm8k", {"question": "question", "answer": "answer", "reference": "answer"}, config="main",
        answer_after="####",
    ),
}  # fmt: skip


def benchmark_names() -> list[str]:
    """Names that ``load_benchmark`` takes as they are, and the forms of the others."""
    from opsd_eval.testbed import WORLDS

    splits = ("id", "longer", "larger", "heldout_mix")
    return [
        *(f"testbed.{world}.{split}" for world in WORLDS for split in splits),
        *(f"reasoning_gym.{family}" for family in REASONING_GYM_FAMILIES),
        *(f"hf:{name}" for name in HUB),
        "reasoning_gym.FAMILY.LEVEL", "jsonl:PATH", "hf:OWNER/NAME?question=COLUMN&answer=COLUMN",
    ]  # fmt: skip


def load_benchmark(
    name: str, *, limit: int | None = None, seed: int = 0, split: str | None = None
) -> list[Problem]:
    """The problems of a benchmark; the first m of n are those that ``limit=m`` gives.

    ``seed`` chooses among generated problems (testbed, reasoning-gym) and is ignored by fixed sets. ``split``
    overrides the split that the name implies. ``limit`` ``None``: 200 generated problems, or the whole fixed set.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; ask for 1 problem or more")
    address, options = _options(name)
    style = options.pop("style", None)
    kind, mark, path = address.partition(":")
    if mark and kind in ("jsonl", "hf"):
        load = _load_jsonl if kind == "jsonl" else _load_hub
        found = load(path, options, split=split)
        found = found if limit is None else _first(found, limit, name)
    elif options:
        raise ValueError(f"benchmark {address!r} takes the option style only, not {', '.join(options)}")
    else:
        found = _generated(address, limit=limit, seed=seed, split=split)
    return found if style is None else [styled(problem, style) for problem in found]


def _generated(name: str, *, limit: int | None, seed: int, split: str | None) -> list[Problem]:
    """Problems of the testbed or of a reasoning-gym family."""
    kind, *parts = name.split(".", 2)
    if kind == "testbed" and parts:
        from opsd_eval import testbed

        chosen = split or (parts[1] if len(parts) > 1 else "id")
        return testbed.problems(parts[0], chosen, 200 if limit is None else limit, seed)
    if kind == "reasoning_gym" and parts:
        return load_gym(parts[0], parts[1] if len(parts) > 1 else None, limit=limit, seed=seed, split=split)
    raise ValueError(unknown_name("benchmark", name, benchmark_names()))


def _first(problems: list[Problem], limit: int, name: str) -> list[Problem]:
    if len(problems) < limit:
        raise ValueError(f"{name} has {len(problems)} problems, {limit} were asked for; lower the limit")
    return problems[:limit]


def _options(text: str) -> tuple[str, dict[str, str]]:
    """``PATH?key=value&key=value`` taken apart."""
    path, mark, query = text.partition("?")
    options: dict[str, str] = {}
    for part in query.split("&") if mark else []:
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise ValueError(f"benchmark option {part!r} should read key=value, in ?key=value&key=value")
        options[key] = value
    return path, options


def _columns(options: Mapping[str, str], extra: tuple[str, ...] = ()) -> dict[str, str]:
    for key in options:
        if key not in (*COLUMNS, *extra):
            raise ValueError(unknown_name("benchmark option", key, [*COLUMNS, *extra]))
    return {key: value for key, value in options.items() if key in COLUMNS}


def _load_jsonl(path: str, options: Mapping[str, str], *, split: str | None) -> list[Problem]:
    """Rows with the keys of ``problems.jsonl``, or with other columns named in the options."""
    columns = _columns(options)
    file = Path(path).expanduser()
    rows = read_jsonl(file)
    name = f"jsonl:{file.stem}"
    if columns:
        found = _from_rows(rows, HubData(str(file), columns), name)
        return [replace(problem, split=split or "") for problem in found]
    allowed = {field.name for field in fields(Problem)}
    found = []
    for number, row in enumerate(rows, start=1):
        where = f"{file}:{number}"
        if "question" not in row:
            raise ValueError(
                f"{where}: no key 'question'; keys are {sorted(row)}. Name the columns, as in "
                f"jsonl:{path}?question=problem&answer=solution"
            )
        values = {"problem_id": f"{file.stem}/{number:06d}", "benchmark": name, **row}
        problem = problem_from_row({key: v for key, v in values.items() if key in allowed}, where)
        if split is None or problem.split == split:
            found.append(problem)
    return _distinct(found, name)


def _load_hub(name: str, options: Mapping[str, str], *, split: str | None) -> list[Problem]:
    extra = ("config", "split", "revision", "answer_after")
    columns = _columns(options, extra)
    if name in HUB:
        data = HUB[name]
    elif "/" in name:
        data = HubData(name, {}, verified=True)
    else:
        raise ValueError(unknown_name("hub data set", name, [*HUB, "owner/name"]))
    data = replace(
        data, columns={**data.columns, **columns}, **{key: options[key] for key in extra if key in options}
    )
    if "question" not in data.columns:
        raise ValueError(f"hf:{name} needs its columns named, as in hf:{name}?question=problem&answer=answer")
    chosen = split or data.split
    rows = _hub_rows(data, chosen)
    found = _from_rows(rows, data, f"hf:{name}")
    return [replace(problem, split=chosen) for problem in found]


def _hub_rows(data: HubData, split: str) -> Iterable[dict[str, Any]]:
    """Rows of a hub data set, from ``$OPSD_DATA/owner/name`` when that folder exists, else through ``datasets``."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    local = Path(os.environ.get("OPSD_DATA", "")) / data.repo if os.environ.get("OPSD_DATA") else Path(data.repo)
    try:
        if local.is_dir():
            return load_dataset(str(local), split=split)  # type: ignore[return-value]
        return load_dataset(data.repo, data.config, split=split, revision=data.revision)  # type: ignore
    except (OSError, ValueError, DatasetNotFoundError) as error:
        unsure = "" if data.verified else " (this name was not checked against the hub: it may have moved)"
        raise ValueError(
            f"data set {data.repo!r}{unsure}, split {split!r}, could not be loaded: "
            f"{str(error).splitlines()[0]}. Without a network, set OPSD_DATA to a folder that holds a copy as "
            f"{data.repo}/*.jsonl or *.parquet, or use jsonl:PATH?question=…&answer=…"
        ) from error


def _from_rows(rows: Iterable[Mapping[str, Any]], data: HubData, name: str) -> list[Problem]:
    found = []
    for number, row in enumerate(rows, start=1):
        values: dict[str, Any] = {"problem_id": f"{number:06d}"}
        for key, column in data.columns.items():
            if column not in row:
                raise ValueError(
                    f"{name}, row {number}: no column {column!r} for {key}; columns are {sorted(row)}. Name the right "
                    f"one, as in {name}?{key}={next(iter(row), 'COLUMN')}"
                )
            values[key] = None if row[column] is None else str(row[column]).strip()
        if data.answer_after and values.get("answer") is not None:
            values["answer"] = values["answer"].rsplit(data.answer_after, 1)[-1].strip().replace(",", "")
        values["problem_id"] = f"{name.partition(':')[2]}/{values['problem_id']}"
        found.append(problem_from_row({**values, "benchmark": name}, f"{name}, row {number}"))
    return _distinct(found, name)


def _distinct(problems: list[Problem], name: str) -> list[Problem]:
    seen: dict[str, int] = {}
    for number, problem in enumerate(problems, start=1):
        if problem.problem_id in seen:
            raise ValueError(
                f"{name}: rows {seen[problem.problem_id]} and {number} have the problem_id {problem.problem_id!r}"
            )
        seen[problem.problem_id] = number
    return problems
