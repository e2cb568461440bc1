"""NeMo-Skills: ``output-rs<seed>.jsonl``, one file a draw, one line a problem; draw and seed are the file's number.

A single ``output.jsonl`` (greedy) is draw 0 with no seed. ``_full_generation`` is taken where the pipeline cut the
reasoning out of ``generation``. Problems are named by ``id`` or ``problem_id``, else by a hash of the problem text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opsd_eval.ingest.base import (
    MALFORMED,
    Format,
    IngestLog,
    Item,
    Namer,
    Source,
    first_row,
    gold_and_reference,
    int_or_none,
    iter_rows,
    text_or_none,
)
from opsd_eval.records import Problem, Sample

_NAME = re.compile(r"output-rs(\d{1,9})\.jsonl")
_STOP = {"stop": "stop", "length": "length"}


def _matches(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("output-rs*.jsonl"))
    row = first_row(path) if path.suffix == ".jsonl" else {}
    return "generation" in row and bool({"expected_answer", "predicted_answer"} & set(row))


def _open(path: Path, task: str | None) -> Source:
    candidates = path.glob("output-rs*.jsonl") if path.is_dir() else [path]
    numbered = sorted((int(m[1]), p) for p in candidates if (m := _NAME.fullmatch(p.name)))
    seeded: list[tuple[int | None, Path]] = [*numbered] or ([(None, path)] if path.is_file() else [])

    def items(log: IngestLog) -> Iterator[Item]:
        for seed, file in seeded:
            yield from _items(file, seed, task or "", log)

    files = [file for _, file in seeded]
    return Source(tuple(files), task or "", items, {"sampling": {"n": len(files)}} if path.is_dir() else {})


def _items(path: Path, seed: int | None, task: str, log: IngestLog) -> Iterator[Item]:
    namer = Namer(task)
    for number, row in iter_rows(path, log):
        try:
            yield _item(row, seed, task, namer)
        except MALFORMED as error:
            log.bad(f"{path}:{number}", error)


def _item(row: Mapping[str, Any], seed: int | None, task: str, namer: Namer) -> Item:
    question = row.get("problem") or row.get("question")
    if not isinstance(question, str):
        raise ValueError("neither problem nor question is a text")
    text = row.get("_full_generation") or row.get("generation")
    if not isinstance(text, str):
        raise ValueError("generation is not a text")
    own = text_or_none(row.get("id")) or text_or_none(row.get("problem_id"))
    name = f"{namer.prefix}{own}" if own else namer(question)
    answer, reference = gold_and_reference(text_or_none(row.get("expected_answer")))
    problem = Problem(name, question, answer=answer, reference=text_or_none(row.get("reference_solution")) or reference,
                      benchmark=task)
    sample = Sample(name, seed or 0, text=text, n_tokens=int_or_none(row.get("num_generated_tokens")), seed=seed,
                    finish_reason=_STOP.get(row.get("finish_reason", "")))
    return problem, [sample]


FORMAT = Format(
    "nemo-skills", "NeMo-Skills output-rs<seed>.jsonl, one file a draw", "by hand from its description; not run here",
    _matches, _open,
)
