"""The plain JSON Lines format for everybody else, one line a completion or one line a problem.

| key | meaning |
|---|---|
| ``question`` | required text |
| ``problem_id`` | text or number; without it a hash of the question |
| ``text`` | the completion, null if unknown; or ``texts`` (or ``completions``): a list of them |
| ``draw`` | whole number from 0; without it, counted in order of appearance |
| ``answer``, ``reference`` | gold final answer (a list: any of them is right); worked solution |
| ``benchmark``, ``split``, ``cluster``, ``axes``, ``metadata`` | as in ``problems.jsonl`` |
| ``n_tokens``, ``finish_reason``, ``seed`` | as in ``samples.jsonl``; with ``texts``, lists of the same length |
| ``prompt`` | the text given to the model; only its hash is kept |

What is absent or null is unknown. Keys not in this table are ignored and counted.
"""

from __future__ import annotations

from collections import Counter
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
    gold_of,
    int_or_none,
    prompt_hash,
    text_or_none,
    texts_of,
)
from opsd_eval.ingest.reading import files_of, first_row, iter_rows, one_run
from opsd_eval.records import Problem, Sample

_LISTS = ("texts", "completions")
_KEYS = {"question", "problem_id", "text", *_LISTS, "draw", "answer", "reference", "benchmark", "split", "cluster",
         "axes", "metadata", "n_tokens", "finish_reason", "seed", "prompt", "prompt_sha256", "token_ids"}


def _matches(path: Path) -> bool:
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    rows = [(p, first_row(p)) for p in files_of(path, "*.jsonl", "*.json")]
    return [p for p, row in rows if "question" in row and {"text", *_LISTS} & set(row)]


def _open(path: Path, task: str | None) -> Source:
    files = _files(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} is a folder without a file of the generic format: give one JSONL file")
    file = one_run(files, task or "generic", path)

    def items(log: IngestLog) -> Iterator[Item]:
        drawn: Counter[str] = Counter()
        for where, row in iter_rows(file, log):
            try:
                for key in sorted(set(row) - _KEYS):
                    log.note(f"key {key!r} is not part of the generic format and was ignored")
                yield _item(row, task, drawn, log)
            except MALFORMED as error:
                log.bad(where, error)

    return Source((file,), task or "", items)


def _item(row: Mapping[str, Any], task: str | None, drawn: Counter[str], log: IngestLog) -> Item:
    if not isinstance(row.get("question"), str):
        raise ValueError("question is required and should be a text")
    key = next((k for k in _LISTS if k in row), None)
    texts = texts_of(row[key], key, log) if key else texts_of([row.get("text")], "[text]", log)
    name = text_or_none(row.get("problem_id")) or Namer(task or "")(row["question"])
    start = int_or_none(row.get("draw"))
    if row.get("draw") is not None and (start is None or key):
        raise ValueError(f"draw should be a whole number >= 0, and absent beside a list, got {row['draw']!r}")
    if start is None:
        start = drawn[name]
        drawn[name] += len(texts)
    per_text = [_settings(row, at if key else None, len(texts)) for at in range(len(texts))]
    samples = [Sample(name, start + at, text=text, **per_text[at]) for at, text in enumerate(texts)]
    return _problem(row, name, task), samples


def _problem(row: Mapping[str, Any], name: str, task: str | None) -> Problem:
    answer, worked, more = gold_of(row.get("answer"))
    for key in ("axes", "metadata"):
        if not isinstance(row.get(key), dict | None):
            raise ValueError(f"{key} should be an object, got {type(row[key]).__name__}")
    return Problem(
        name, row["question"], answer=answer, reference=text_or_none(row.get("reference")) or worked,
        benchmark=task or text_or_none(row.get("benchmark")) or "", split=text_or_none(row.get("split")) or "",
        axes=row.get("axes") or {}, cluster=text_or_none(row.get("cluster")),
        metadata={**(row.get("metadata") or {}), **more},
    )


def _settings(row: Mapping[str, Any], at: int | None, size: int) -> dict[str, Any]:
    """What is known about one completion; ``at`` is its place in the lists, ``None`` for a line with one text."""
    values = {key: row.get(key) for key in ("token_ids", "n_tokens", "finish_reason", "seed")}
    if at is not None:
        for key, value in values.items():
            if value is not None and (not isinstance(value, list) or len(value) != size):
                raise ValueError(f"{key} should be a list of {size}, one for each completion")
            values[key] = None if value is None else value[at]
    ids = values["token_ids"]
    if ids is not None and not (isinstance(ids, list) and all(type(token) is int for token in ids)):
        raise ValueError("token_ids should be a list of whole numbers")
    tokens = int_or_none(values["n_tokens"])
    own_hash = row.get("prompt_sha256")
    return {
        "token_ids": ids, "n_tokens": len(ids) if tokens is None and ids is not None else tokens,
        "finish_reason": text_or_none(values["finish_reason"]), "seed": int_or_none(values["seed"]),
        "prompt_sha256": own_hash if isinstance(own_hash, str) else prompt_hash(row.get("prompt")),
    }  # fmt: skip


FORMAT = Format("generic", "JSONL with question, problem_id, text (or texts[]), answer, …", "our own", _matches, _open)
