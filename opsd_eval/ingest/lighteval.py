"""lighteval: ``details/<model>/<time>/details_<task>_<time>.parquet`` and ``results/<model>/results_<time>.json``.

Columns ``doc``, ``metric``, ``model_response`` (0.10 and later; some pages call them ``__doc__`` and so on), or the
flat columns of earlier versions (``full_prompt``, ``predictions``, ``gold`` …). Read in small batches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_eval.ingest.base import (
    MALFORMED,
    Format,
    IngestLog,
    Item,
    Source,
    entry,
    finish_of,
    gold_of,
    list_of,
    prompt_hash,
    text_or_none,
    texts_of,
    with_thinking,
)
from opsd_eval.ingest.reading import files_of, load_json, one_run, one_task
from opsd_eval.records import Problem, Sample

_NAME = re.compile(r"details_(?P<task>.+)_(?P<stamp>\d{4}-\d\d-\d\dT\d\d[-:]\d\d[-:]\d\d[.\d]*)\.parquet")
_BATCH = 16


def _matches(path: Path) -> bool:
    return bool(files_of(path, "details_*.parquet")) if path.is_dir() else path.suffix == ".parquet"


def _open(path: Path, task: str | None) -> Source:
    named = [(p, _NAME.fullmatch(p.name)) for p in files_of(path, "details_*.parquet")]
    tasks = [m["task"] if m else p.stem for p, m in named]
    chosen = one_task(tasks, task, path)
    details = one_run([p for (p, _), name in zip(named, tasks, strict=True) if name == chosen], chosen, path)
    match = _NAME.fullmatch(details.name)
    results = _results_beside(details, match["stamp"]) if match else None
    files = (details,) if results is None else (details, results)
    facts = {} if results is None else _facts(load_json(results), chosen)
    limit = facts.get("sampling", {}).get("max_new_tokens")
    return Source(files, chosen, lambda log: _items(details, chosen, limit, log), facts)


def _results_beside(details: Path, stamp: str) -> Path | None:
    """``results/…/results_<stamp>.json`` in the same output folder, searched upwards from the details."""
    for folder in list(details.parents)[:6]:
        if folder.name == "details":
            found = sorted((folder.parent / "results").rglob(f"results_{stamp}.json"))
            return found[0] if len(found) == 1 else None
    return None


def _facts(log: Mapping[str, Any], task: str) -> dict[str, Any]:
    general = log.get("config_general") or {}
    model = general.get("model_config") or {}
    settings = model.get("generation_parameters") or {}
    names = ("temperature", "top_p", "top_k", "seed", "max_new_tokens")
    config = (log.get("config_tasks") or {}).get(task) or {}
    return {
        "model": {"path": general.get("model_name") or model.get("model_name")},
        "sampling": {name: settings[name] for name in names if settings.get(name) is not None},
        "config": {"harness": {"lighteval": general.get("lighteval_sha")}, "generation_parameters": settings,
                   "generation_size": config.get("generation_size"), "max_samples": general.get("max_samples"),
                   "task_version": config.get("version")},
    }


@dataclass(frozen=True)
class _Row:
    """Where a row stands: the task, the name of its problem if the row has none, the token limit of the run."""

    task: str
    name: str
    limit: Any
    log: IngestLog


def _items(path: Path, task: str, limit: Any, log: IngestLog) -> Iterator[Item]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            for at, batch in enumerate(table.iter_batches(batch_size=_BATCH)):
                for offset, row in enumerate(batch.to_pylist()):
                    number = at * _BATCH + offset
                    try:
                        yield _item(row, _Row(task, f"{task}/{number}", limit, log))
                    except MALFORMED as error:
                        log.bad(f"{path} row {number}", error)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a readable parquet file: {error}") from None


def _item(row: Mapping[str, Any], place: _Row) -> Item:
    doc = row.get("doc") or row.get("__doc__")
    response = row.get("model_response") or row.get("__model_response__")
    if isinstance(doc, dict) and isinstance(response, dict):
        return _current(doc, response, place)
    if "predictions" in row:
        return _older(row, place)
    raise ValueError(f"columns {', '.join(sorted(row))} are none of lighteval's; expected doc, metric, model_response")


def _current(doc: Mapping[str, Any], response: Mapping[str, Any], place: _Row) -> Item:
    query = doc.get("query")
    if not isinstance(query, str):
        raise ValueError("doc.query is not a text")
    name = place.name if doc.get("id") in (None, "") else f"{place.task}/{doc['id']}"
    answer, reference, more = gold_of(_golds(doc))
    texts = texts_of(response.get("text"), "model_response.text", place.log)
    if not texts:
        raise ValueError("model_response.text is empty: a log-likelihood task has no completions to ingest")
    size, prompt = len(texts), prompt_hash(response.get("input") or query)
    samples = []
    for draw, text in enumerate(texts):
        ids = entry(response.get("output_tokens"), draw, size)
        n_tokens = None if ids is None else len(ids)
        whole = with_thinking(text_or_none(entry(response.get("reasonings"), draw, size)), text)
        samples.append(Sample(name, draw, text=whole, token_ids=ids, n_tokens=n_tokens, prompt_sha256=prompt,
                              finish_reason=finish_of(None, n_tokens, place.limit)))
    metadata = {"specific": doc.get("specific"), **more}
    question = query.strip()
    return Problem(name, question, answer=answer, reference=reference, benchmark=place.task, metadata=metadata), samples


def _golds(doc: Mapping[str, Any]) -> list[str]:
    index, choices = doc.get("gold_index"), doc.get("choices") or []
    indices = index if isinstance(index, list) else [index]
    return [str(choices[i]).strip() for i in indices if isinstance(i, int) and 0 <= i < len(choices)]


def _older(row: Mapping[str, Any], place: _Row) -> Item:
    question = row.get("example") or row.get("full_prompt")
    if not isinstance(question, str):
        raise ValueError("neither example nor full_prompt is a text")
    answer, reference, metadata = gold_of(list_of(row.get("gold")))
    predictions = list_of(row["predictions"])
    if isinstance(predictions, list) and len(predictions) == 1 and isinstance(predictions[0], list):
        predictions = predictions[0]
    texts = texts_of(predictions, "predictions", place.log)
    name, prompt, task = place.name, prompt_hash(row.get("full_prompt")), place.task
    problem = Problem(name, question.strip(), answer=answer, reference=reference, benchmark=task, metadata=metadata)
    return problem, [Sample(name, draw, text=text, prompt_sha256=prompt) for draw, text in enumerate(texts)]


FORMAT = Format(
    "lighteval", "lighteval details_*.parquet, with results_*.json found beside it",
    "lighteval 0.13.0; the columns of earlier versions by hand from their description", _matches, _open,
)
