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
    finish_of,
    gold_of,
    int_or_none,
    text_or_none,
    texts_of,
    with_thinking,
)
from opsd_eval.ingest.reading import files_of, first_row, iter_rows, one_task, plain_name
from opsd_eval.records import Problem, Sample

_NAME = re.compile(r"output-rs(\d{1,9})\.jsonl")


def _matches(path: Path) -> bool:
    if path.is_dir():
        return bool(_files(path))
    row = first_row(path)
    return "generation" in row and bool({"expected_answer", "predicted_answer"} & set(row))


def _files(path: Path) -> list[Path]:
    """``output-rs<seed>.jsonl`` files; in a folder without any, greedy ``output.jsonl``; a file is itself."""
    found = [p for p in files_of(path, "output-rs*.jsonl") if path.is_file() or _NAME.fullmatch(plain_name(p))]
    return found or [p for p in files_of(path, "output.jsonl") if _matches(p)]


def _open(path: Path, task: str | None) -> Source:
    files = _files(path)
    folders = {p.parent for p in files}
    benchmark = one_task([f.name for f in folders], task, path) if len(folders) > 1 else task or ""
    chosen = [p for p in files if len(folders) == 1 or p.parent.name == benchmark]
    numbers = {p: int(m[1]) if (m := _NAME.fullmatch(plain_name(p))) else None for p in chosen}
    if len({*numbers.values()}) < len(chosen):
        listed = ", ".join(str(f) for f in sorted({p.parent for p in chosen}))
        raise ValueError(f"{path} holds several runs of {benchmark}: {listed}. Give one of the folders.")
    ordered = sorted(chosen, key=lambda p: (numbers[p] or 0, p))

    def items(log: IngestLog) -> Iterator[Item]:
        for file in ordered:
            yield from _items(file, numbers[file], benchmark, log)

    return Source(tuple(ordered), benchmark, items, {"sampling": {"n": len(ordered)}} if path.is_dir() else {})


def _items(path: Path, seed: int | None, task: str, log: IngestLog) -> Iterator[Item]:
    namer = Namer(task)
    for where, row in iter_rows(path, log):
        try:
            [text] = texts_of([row.get("_full_generation") or row["generation"]], "generation", log)
            yield _item(row, with_thinking(text_or_none(row.get("reasoning_content")), text), seed, task, namer)
        except MALFORMED as error:
            log.bad(where, "generation is missing" if isinstance(error, KeyError) else error)


def _item(row: Mapping[str, Any], text: str | None, seed: int | None, task: str, namer: Namer) -> Item:
    question = row.get("problem") or row.get("question")
    if not isinstance(question, str):
        raise ValueError("neither problem nor question is a text")
    own = text_or_none(row.get("id")) or text_or_none(row.get("problem_id"))
    name = f"{namer.prefix}{own}" if own else namer(question)
    answer, reference, metadata = gold_of(row.get("expected_answer"))
    problem = Problem(name, question, answer=answer, reference=text_or_none(row.get("reference_solution")) or reference,
                      benchmark=task, metadata=metadata)
    sample = Sample(name, seed or 0, text=text, n_tokens=int_or_none(row.get("num_generated_tokens")), seed=seed,
                    finish_reason=finish_of(row.get("finish_reason")))
    return problem, [sample]


FORMAT = Format(
    "nemo-skills", "NeMo-Skills output-rs<seed>.jsonl, one file a draw",
    "by hand from its description; a public log went through", _matches, _open,
)
