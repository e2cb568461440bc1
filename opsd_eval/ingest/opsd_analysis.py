"""OPSD_Analysis: a JSON file with ``results: [{dataset_tag, problem_id, problem, ground_truth, generations}]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opsd_eval.ingest.base import (
    MALFORMED,
    Format,
    IngestLog,
    Item,
    Source,
    gold_and_reference,
    head,
    int_or_none,
    load_json,
    one_task,
    text_or_none,
)
from opsd_eval.records import Problem, Sample


def _matches(path: Path) -> bool:
    start = head(path) if path.is_file() and path.suffix == ".json" else ""
    return '"results"' in start and ('"full_generation"' in start or '"results_count"' in start)


def _open(path: Path, task: str | None) -> Source:
    whole = load_json(path)
    rows = whole.get("results") if isinstance(whole, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: no list of results inside; expected the OPSD_Analysis layout")
    tag = one_task([str(r.get("dataset_tag") or "") for r in rows if isinstance(r, dict)], task, path)
    total, count = whole.get("num_problems_total"), whole.get("results_count")
    partial = bool(whole.get("partial_only")) or (isinstance(total, int) and isinstance(count, int) and count < total)

    def items(log: IngestLog) -> Iterator[Item]:
        for number, row in enumerate(rows):
            try:
                if not isinstance(row, dict):
                    raise ValueError(f"expected an object, got {type(row).__name__}")
                if str(row.get("dataset_tag") or "") == tag:
                    yield _item(row, tag, number)
            except MALFORMED as error:
                log.bad(f"{path} result {number}", error)

    return Source((path,), tag, items, {"config": {"status": "unfinished" if partial else None}})


def _item(row: Mapping[str, Any], tag: str, number: int) -> Item:
    question = row.get("problem")
    if not isinstance(question, str):
        raise ValueError("problem is not a text")
    own = text_or_none(row.get("problem_id"))
    own = own if own is not None else str(number)
    name = f"{tag}/{own}" if tag else own
    answer, reference = gold_and_reference(text_or_none(row.get("ground_truth")))
    generations = row.get("generations")
    if not isinstance(generations, list) or not all(isinstance(g, dict) for g in generations):
        raise ValueError("generations should be a list of objects")
    if not all(isinstance(g.get("full_generation"), str) for g in generations):
        raise ValueError("a generation without the text full_generation")
    samples = [
        Sample(name, draw, text=g["full_generation"], n_tokens=int_or_none(g.get("num_tokens")))
        for draw, g in enumerate(generations)
    ]
    return Problem(name, question, answer=answer, reference=reference, benchmark=tag), samples


FORMAT = Format(
    "opsd-analysis", "OPSD_Analysis results JSON", "by hand from its description; not run here", _matches, _open
)
