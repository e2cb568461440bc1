"""inspect_ai: ``.eval`` archives (read sample by sample) and JSON logs (read whole). Epoch e becomes draw e - 1.

``output.completion`` holds no reasoning, so the text is put together from the message's reasoning and text parts. An
unfinished archive has no header; its journal is used and the set is marked as unfinished.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opsd_eval.ingest.archive import Archive
from opsd_eval.ingest.base import (
    MALFORMED,
    Format,
    IngestLog,
    Item,
    Source,
    finish_of,
    gold_of,
    int_or_none,
    prompt_hash,
    with_thinking,
)
from opsd_eval.ingest.reading import files_of, head, load_json, one_run, one_task, suffix_of
from opsd_eval.records import Problem, Sample


def _matches(path: Path) -> bool:
    if path.is_dir():
        return bool(_files(path))
    if path.suffix == ".eval":
        return True
    start = head(path) if suffix_of(path) == ".json" else ""
    return '"status"' in start and '"eval"' in start and '"run_id"' in start


def _files(path: Path) -> list[Path]:
    """The logs of a folder: ``.eval`` archives, and the JSON files that are inspect's."""
    return [p for p in files_of(path, "*.eval", "*.json") if path.is_file() or _matches(p)]


def _open(path: Path, task: str | None) -> Source:
    files = _files(path)
    headers = [_archive_header(p) if p.suffix == ".eval" else load_json(p) for p in files]
    tasks = [str((h.get("eval") or {}).get("task") or p.stem) for p, h in zip(files, headers, strict=True)]
    chosen = one_task(tasks, task, path)
    file = one_run([p for p, name in zip(files, tasks, strict=True) if name == chosen], chosen, path)
    header = headers[files.index(file)]

    def items(log: IngestLog) -> Iterator[Item]:
        samples = _archive_samples(file, log) if file.suffix == ".eval" else _json_samples(file, header, log)
        for where, sample in samples:
            try:
                if (item := _item(sample, chosen, log)) is not None:
                    yield item
            except MALFORMED as error:
                log.bad(where, error)

    return Source((file,), chosen, items, _facts(header))


def _archive_header(path: Path) -> dict[str, Any]:
    with Archive(path) as archive:
        names = set(archive.names())
        if "header.json" in names:
            return _object(archive.read("header.json"), f"{path}!header.json")
        if "_journal/start.json" in names:
            return {"status": "unfinished", **_object(archive.read("_journal/start.json"), f"{path}!_journal")}
    raise ValueError(f"{path}: neither header.json nor _journal/start.json inside; is it an inspect log?")


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {type(value).__name__}")
    return value


def _archive_samples(path: Path, log: IngestLog) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with Archive(path) as archive:
        for name in archive.names():
            if name.startswith("samples/") and name.endswith(".json"):
                where = f"{path}!{name}"
                try:
                    yield where, _object(archive.read(name), where)
                except ValueError as error:
                    log.bad(where, str(error).removeprefix(f"{where}: "))


def _json_samples(path: Path, log_file: Mapping[str, Any], log: IngestLog) -> Iterator[tuple[str, Mapping[str, Any]]]:
    samples = log_file.get("samples") or []
    if not isinstance(samples, list):
        raise ValueError(f"{path}: samples should be a list, got {type(samples).__name__}")
    for number, sample in enumerate(samples):
        if isinstance(sample, dict):
            yield f"{path} sample {number}", sample
        else:
            log.bad(f"{path} sample {number}", f"expected an object, got {type(sample).__name__}")


def _facts(header: Mapping[str, Any]) -> dict[str, Any]:
    run, plan = header.get("eval") or {}, header.get("plan") or {}
    settings = {**(run.get("model_generate_config") or {}), **(plan.get("config") or {})}
    names = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_tokens": "max_new_tokens",
             "seed": "seed"}
    sampling = {ours: settings[theirs] for theirs, ours in names.items() if settings.get(theirs) is not None}
    epochs = (run.get("config") or {}).get("epochs")
    if isinstance(epochs, int):
        sampling["n"] = epochs
    return {
        "model": {"path": run.get("model"), "args": run.get("model_args")},
        "sampling": sampling, "seed": int_or_none(settings.get("seed")),
        "config": {"harness": run.get("packages"), "status": header.get("status"), "date": run.get("created"),
                   "run_id": run.get("run_id"), "eval_config": run.get("config"), "dataset": run.get("dataset")},
    }  # fmt: skip


def _item(sample: Mapping[str, Any], task: str, log: IngestLog) -> Item | None:
    attached = sample.get("attachments") or {}
    name, epoch = f"{task}/{sample['id']}", sample.get("epoch")
    if type(epoch) is not int or epoch < 1:
        raise ValueError(f"epoch should be a whole number from 1, got {epoch!r}")
    question = _question(sample.get("input"), attached)
    answer, reference, more = gold_of(sample.get("target"))
    metadata = {"sample_metadata": sample.get("metadata"), **more}
    problem = Problem(name, question, answer=answer, reference=reference, benchmark=task, metadata=metadata)
    output = sample.get("output") or {}
    choices = output.get("choices") or []
    if not choices:
        error = sample.get("error") or output.get("error") or "no model output"
        raise ValueError(f"sample {sample['id']} epoch {epoch} has no completion: {_message(error)}")
    if sum(m.get("role") == "assistant" for m in sample.get("messages") or [] if isinstance(m, dict)) > 1:
        log.note("samples with several assistant turns: only the last is kept")
    message = choices[0].get("message") or {}
    text = with_thinking(message.get("reasoning"), _text(message.get("content"), attached, log))  # before 0.3.70
    prompt = prompt_hash(_resolve(sample.get("input"), attached))
    tokens = int_or_none((output.get("usage") or {}).get("output_tokens"))
    reason = finish_of(choices[0].get("stop_reason"))
    return problem, [Sample(name, epoch - 1, text=text, n_tokens=tokens, finish_reason=reason, prompt_sha256=prompt)]


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _resolve(value: Any, attached: Mapping[str, Any]) -> Any:
    """A text, with a reference to an attachment replaced by the text it stands for; chats part by part."""
    if isinstance(value, str) and value.startswith("attachment://"):
        found = attached.get(value.removeprefix("attachment://"))
        if not isinstance(found, str):
            raise ValueError(f"{value} is not among the sample's attachments")
        return found
    if isinstance(value, list):
        return [_resolve(part, attached) for part in value]
    if isinstance(value, dict):
        return {key: _resolve(part, attached) for key, part in value.items() if key not in ("id", "source")}
    return value


def _question(value: Any, attached: Mapping[str, Any]) -> str:
    found = _resolve(value, attached)
    if isinstance(found, str):
        return found
    users = [m for m in found or [] if isinstance(m, dict) and m.get("role") == "user"]
    if not users:
        raise ValueError("input has no user message")
    return "\n\n".join(_text(m.get("content"), attached, IngestLog()) for m in users)


def _text(content: Any, attached: Mapping[str, Any], log: IngestLog) -> str:
    content = _resolve(content, attached)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"message content should be text or a list of parts, got {type(content).__name__}")
    thoughts, texts = [], []
    for part in content:
        if part.get("type") == "reasoning":
            if part.get("redacted"):
                log.note("samples whose reasoning the provider redacted: it is missing from the text")
            else:
                thoughts.append(str(part.get("reasoning") or ""))
        elif part.get("type") == "text":
            texts.append(str(part.get("text") or ""))
    return with_thinking("\n".join(thoughts), "\n".join(texts)) or ""


FORMAT = Format(
    "inspect", "inspect_ai logs, .eval or JSON; epochs become draws",
    "inspect_ai 0.3.285; the unfinished archive was cut from a finished one", _matches, _open,
)
