"""OPSD_Analysis: ``NAME.results.json`` with ``results: [{dataset_tag, problem_id, problem, generations, …}]``.

``NAME.metrics.json`` beside it holds the settings of the run; a completion as long as its ``max_new_tokens`` was cut.
"""

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
    finish_of,
    gold_of,
    int_or_none,
    text_or_none,
    texts_of,
)
from opsd_eval.ingest.reading import files_of, head, load_json, one_run, one_task, plain_name, suffix_of
from opsd_eval.records import Problem, Sample

_SETTINGS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "gen_n": "n",
             "max_new_tokens": "max_new_tokens", "enable_thinking": "thinking"}


def _matches(path: Path) -> bool:
    if path.is_dir():
        return bool(_files(path))
    start = head(path) if suffix_of(path) == ".json" else ""
    return '"results"' in start and ('"full_generation"' in start or '"results_count"' in start)


def _files(path: Path) -> list[Path]:
    return [p for p in files_of(path, "*.json") if path.is_file() or _matches(p)]


def _open(path: Path, task: str | None) -> Source:
    files = _files(path)
    wholes = [_results(p) for p in files]
    tags = [sorted({_tag(r) for r in whole["results"] if isinstance(r, dict)}) for whole in wholes]
    tag = one_task([t for of_file in tags for t in of_file], task, path)
    file = one_run([p for p, of_file in zip(files, tags, strict=True) if tag in of_file], tag, path)
    whole = wholes[files.index(file)]
    total, count = whole.get("num_problems_total"), whole.get("results_count")
    partial = bool(whole.get("partial_only")) or (isinstance(total, int) and isinstance(count, int) and count < total)
    settings_file = file.parent / f"{plain_name(file).removesuffix('.json').removesuffix('.results')}.metrics.json"
    settings = load_json(settings_file) if settings_file.is_file() and settings_file != file else {}
    facts = _facts(settings if isinstance(settings, dict) else {}, partial)
    limit = facts["sampling"].get("max_new_tokens")

    def items(log: IngestLog) -> Iterator[Item]:
        for number, row in enumerate(whole["results"]):
            try:
                if not isinstance(row, dict):
                    raise ValueError(f"expected an object, got {type(row).__name__}")
                if _tag(row) == tag:
                    yield _item(row, tag, number, limit, log)
            except MALFORMED as error:
                log.bad(f"{file} result {number}", error)

    return Source((file,), tag, items, facts)


def _results(path: Path) -> dict[str, Any]:
    whole = load_json(path)
    if not isinstance(whole, dict) or not isinstance(whole.get("results"), list):
        raise ValueError(f"{path}: no list of results inside; expected the OPSD_Analysis layout")
    return whole


def _tag(row: Mapping[str, Any]) -> str:
    return str(row.get("dataset_tag") or "")


def _facts(settings: Mapping[str, Any], partial: bool) -> dict[str, Any]:
    sampling = {ours: settings[key] for key, ours in _SETTINGS.items() if settings.get(key) is not None}
    return {
        "model": {"path": settings.get("model_path"), "adapter": settings.get("lora_adapter_dir")} if settings else {},
        "sampling": sampling, "config": {"status": "unfinished" if partial else None},
    }  # fmt: skip


def _item(row: Mapping[str, Any], tag: str, number: int, limit: Any, log: IngestLog) -> Item:
    question = row.get("problem")
    if not isinstance(question, str):
        raise ValueError("problem is not a text")
    own = text_or_none(row.get("problem_id"))
    own = own if own is not None else str(number)
    name = f"{tag}/{own}" if tag else own
    answer, reference, metadata = gold_of(row.get("ground_truth"))
    if row.get("category"):
        metadata["category"] = row["category"]
    generations = row.get("generations")
    if not isinstance(generations, list) or not all(isinstance(g, dict) for g in generations):
        raise ValueError("generations should be a list of objects")
    if not all("full_generation" in g for g in generations):
        raise ValueError("a generation without the text full_generation")
    texts = texts_of([g["full_generation"] for g in generations], "full_generation", log)
    lengths = [int_or_none(g.get("num_tokens")) for g in generations]
    samples = [
        Sample(name, draw, text=text, n_tokens=length, finish_reason=finish_of(None, length, limit))
        for draw, (text, length) in enumerate(zip(texts, lengths, strict=True))
    ]
    return Problem(name, question, answer=answer, reference=reference, benchmark=tag, metadata=metadata), samples


FORMAT = Format(
    "opsd-analysis", "OPSD_Analysis results JSON, with its metrics JSON beside it",
    "by hand from the script that writes it; compared with a public log", _matches, _open,
)
