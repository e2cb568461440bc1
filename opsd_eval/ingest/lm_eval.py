"""lm-evaluation-harness: ``samples_<task>_<time>.jsonl`` beside ``results_<time>.json``.

One line a document and filter; all K completions are in ``resps`` whatever the filter handed to scoring. The harness
logs no finish reason, token count or seed, so those stay null. ``doc_hash`` names the problem, because ``doc_id`` can
be attached to the wrong document when a run used ``--samples``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_eval.ingest.base import (
    MALFORMED,
    Format,
    IngestLog,
    Item,
    Source,
    gold_of,
    list_of,
    merged,
    prompt_hash,
    text_or_none,
    texts_of,
)
from opsd_eval.ingest.reading import files_of, first_row, iter_rows, load_json, one_run, one_task, plain_name
from opsd_eval.records import Problem, Sample, problem_from_row, sha256_text

_NAME = re.compile(r"samples_(?P<task>.+?)_(?P<stamp>\d{4}-\d\d-\d\dT\d\d[-:]\d\d[-:]\d\d[.\d]*)\.jsonl?")
_NO_TARGET = ("None", "nan")  # what the harness writes, as text, for a target that is missing
_QUESTION_FIELDS = ("question", "problem", "Problem", "Question", "query", "input", "prompt")


def _matches(path: Path) -> bool:
    if path.is_dir():
        return bool(_files(path))
    return {"doc_id", "resps"} <= set(first_row(path))


def _files(path: Path) -> list[Path]:
    """``samples_*`` files; in a folder without any, other files whose first line is a sample (before 0.4.3)."""
    named = files_of(path, "samples_*.jsonl", "samples_*.json")
    others = () if named else files_of(path, "*.jsonl", "*.json")
    return named or [p for p in others if {"doc_id", "resps"} <= set(first_row(p))]


def _open(path: Path, task: str | None) -> Source:
    files = _files(path)
    tasks = [m["task"] if (m := _NAME.fullmatch(plain_name(p))) else _stem(p) for p in files]
    if task is not None and task not in tasks and (members := _members(task, files) & {*tasks}):
        return merged(task, {name: _open(path, name) for name in sorted(members)})
    chosen = one_task(tasks, task, path)
    samples = one_run([p for p, name in zip(files, tasks, strict=True) if name == chosen], chosen, path)
    match = _NAME.fullmatch(plain_name(samples))
    results = samples.parent / f"results_{match['stamp']}.json" if match else None
    if results is None or not results.exists():
        settings = _sampling(_prompt_and_kwargs(first_row(samples))[1])
        return Source((samples,), chosen, lambda log: _items(samples, chosen, None, log), {"sampling": settings})
    log_file = load_json(results)
    config = (log_file.get("configs") or {}).get(chosen) or {}
    repeats = config.get("repeats") if isinstance(config.get("repeats"), int) else None
    return Source(
        (samples, results), chosen, lambda log: _items(samples, chosen, repeats, log), _facts(log_file, config)
    )


def _members(group: str, files: Sequence[Path]) -> set[str]:
    """The tasks of a group, groups within it included, as the results beside the samples list them."""
    stamps = {(p.parent, m["stamp"]) for p in files if (m := _NAME.fullmatch(plain_name(p)))}
    found: set[str] = set()
    for folder, stamp in sorted(stamps):
        results = folder / f"results_{stamp}.json"
        listed = load_json(results).get("group_subtasks") if results.exists() else None
        waiting, groups = [group], listed if isinstance(listed, dict) else {}
        while waiting:
            name = waiting.pop()
            if isinstance(inside := groups.get(name), list) and inside and name not in found:
                waiting += map(str, inside)
            found.add(name)
    return found


def _stem(path: Path) -> str:
    return Path(plain_name(path)).stem.removeprefix("samples_")


def _facts(log: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    settings = log.get("config") or {}
    sampling = _sampling(config.get("generation_kwargs") or {})
    if isinstance(config.get("repeats"), int):
        sampling["n"] = config["repeats"]
    return {
        "model": {"path": log.get("model_name") or settings.get("model"), "args": settings.get("model_args")},
        "sampling": sampling,
        "config": {
            "harness": {"lm_eval": log.get("lm_eval_version"), "transformers": log.get("transformers_version")},
            "generation_kwargs": config.get("generation_kwargs"), "gen_kwargs": settings.get("gen_kwargs"),
            "task_version": config.get("metadata", {}).get("version"), "filter_list": config.get("filter_list"),
            "use_cache": settings.get("use_cache"), "limit": settings.get("limit"),
            "seeds": {k: settings.get(k) for k in ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")},
            "date": log.get("date"), "chat_template_sha": log.get("chat_template_sha"),
        },
    }  # fmt: skip


def _sampling(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_gen_toks": "max_new_tokens",
             "max_new_tokens": "max_new_tokens", "seed": "seed"}
    return {ours: kwargs[theirs] for theirs, ours in names.items() if kwargs.get(theirs) is not None}


def _items(path: Path, task: str, repeats: int | None, log: IngestLog) -> Iterator[Item]:
    seen: dict[tuple[str, Any], tuple[Any, str]] = {}
    copies: dict[str, int] = {}
    for where, row in iter_rows(path, log):
        try:
            texts = _completions(row, log)
            doc: dict[str, Any] = row["doc"] if isinstance(row.get("doc"), dict) else {}
            document = text_or_none(row.get("doc_hash")) or sha256_text(json.dumps(doc, sort_keys=True))
            key, digest = (document, row.get("doc_id")), sha256_text(json.dumps(texts))
            if key in seen:
                if seen[key][0] == row.get("filter") or seen[key][1] != digest:
                    log.bad(where, f"document {row.get('doc_id')} appears again (an appended run?); the first is kept")
                continue
            seen[key] = (row.get("filter"), digest)
            short = str(document)[:12]
            copies[short] = copies.get(short, 0) + 1
            name = f"{task}/{short}" + (f"#{copies[short]}" if copies[short] > 1 else "")
            if repeats and len(texts) > repeats:
                log.note(f"more completions than repeats={repeats}: padding of data-parallel ranks, cut off")
                texts = texts[:repeats]
            yield _problem(row, doc, task, name), _samples(row, texts, doc, name)
        except MALFORMED as error:
            log.bad(where, error)


def _completions(row: Mapping[str, Any], log: IngestLog) -> list[str | None]:
    resps = row.get("resps")
    if isinstance(resps, list) and resps and isinstance(resps[0], str):  # older logs of single draws
        resps = [resps]
    if not isinstance(resps, list) or len(resps) != 1 or not isinstance(resps[0], list):
        raise ValueError("resps should hold one list of completions; log-likelihood tasks have none to ingest")
    if not all(isinstance(text, str | None) for text in resps[0]):
        raise ValueError("resps holds something other than text; log-likelihood tasks have no completions to ingest")
    return texts_of(resps[0], "resps", log)


def _problem(row: Mapping[str, Any], doc: Mapping[str, Any], task: str, name: str) -> Problem:
    if isinstance(doc.get("problem"), str) and doc.get("problem_id"):  # written by opsd_eval's own tasks
        try:
            stored = json.loads(doc["problem"])
        except ValueError:
            stored = None
        if isinstance(stored, dict):
            return _own_problem(stored, f"document {row.get('doc_id')}")
    target = row.get("target")
    answer, reference, more = gold_of(None if target in _NO_TARGET else list_of(target))
    field = next((f for f in _QUESTION_FIELDS if isinstance(doc.get(f), str) and doc[f].strip()), None)
    question = doc[field] if field else _prompt_and_kwargs(row)[0]
    if not isinstance(question, str):
        raise ValueError(f"no question: doc has none of {', '.join(_QUESTION_FIELDS)}, and the prompt is not a text")
    metadata = {"doc_id": row.get("doc_id"), "doc_hash": row.get("doc_hash"), "question_from": field or "prompt"} | more
    return Problem(name, question, answer=answer, reference=reference, benchmark=task, metadata=metadata)


def _own_problem(stored: dict[str, Any], where: str) -> Problem:
    problem = problem_from_row(stored, where)
    texts = (problem.problem_id, problem.answer, problem.reference, problem.benchmark, problem.split, problem.cluster)
    if not all(isinstance(t, str | None) for t in texts) or not (
        isinstance(problem.metadata, dict) and isinstance(problem.axes, dict)
    ):
        raise ValueError(f"{where}: its problem has fields of the wrong type")
    return problem


def _prompt_and_kwargs(row: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """(prompt, generation settings) of a row; ``None`` and ``{}`` where they are not logged."""
    arguments = row.get("arguments")
    prompt = kwargs = None
    if isinstance(arguments, dict):
        given = arguments.get("gen_args_0")
        prompt, kwargs = (given.get("arg_0"), given.get("arg_1")) if isinstance(given, dict) else (None, None)
    elif isinstance(arguments, list) and arguments and isinstance(arguments[0], list) and arguments[0]:
        prompt, kwargs = [*arguments[0], None][:2]  # older logs: [[prompt, kwargs]]
    return prompt, kwargs if isinstance(kwargs, dict) else {}


def _samples(row: Mapping[str, Any], texts: list[str | None], doc: Mapping[str, Any], name: str) -> list[Sample]:
    own = doc.get("problem_id") if isinstance(doc.get("problem"), str) and doc.get("problem_id") else None
    prompt = prompt_hash(_prompt_and_kwargs(row)[0])
    return [Sample(str(own or name), draw, text=text, prompt_sha256=prompt) for draw, text in enumerate(texts)]


FORMAT = Format(
    "lm-eval", "lm-evaluation-harness samples_*.jsonl, with results_*.json beside it", "lm_eval 0.4.13", _matches, _open
)
