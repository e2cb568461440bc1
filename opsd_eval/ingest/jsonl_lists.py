"""JSON Lines with one problem a line and its completions in a list.

``qwen-math``: Qwen2.5-Math and its descendants (limit-of-RLVR, simpleRL): idx, question, gt, solution, code[].
``kim``: question, generated_responses[], thinking_contents[], response_token_lengths[], gold_answer, data_source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opsd_eval.ingest.base import (
    MALFORMED,
    Format,
    IngestLog,
    Item,
    Namer,
    Source,
    entry,
    first_row,
    gold_and_reference,
    int_or_none,
    iter_rows,
    text_or_none,
    texts_of,
    with_thinking,
)
from opsd_eval.records import Problem, Sample

Reader = Callable[[Mapping[str, Any], str, Namer], Item]


def _has(*keys: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.suffix == ".jsonl" and set(keys) <= set(first_row(path))


def _opener(read: Reader) -> Callable[[Path, str | None], Source]:
    def open_source(path: Path, task: str | None) -> Source:
        def items(log: IngestLog) -> Iterator[Item]:
            namer = Namer(task or "")
            for number, row in iter_rows(path, log):
                try:
                    yield read(row, task or "", namer)
                except MALFORMED as error:
                    log.bad(f"{path}:{number}", error)

        return Source((path,), task or "", items)

    return open_source


def _question(row: Mapping[str, Any]) -> str:
    question = row.get("question") or row.get("problem")
    if not isinstance(question, str):
        raise ValueError("neither question nor problem is a text")
    return question


def _qwen(row: Mapping[str, Any], task: str, namer: Namer) -> Item:
    question = _question(row)
    index = text_or_none(row.get("idx"))
    name = f"{namer.prefix}{index}" if index is not None else namer(question)
    gold = row.get("gt") if row.get("gt") not in (None, "") else row.get("answer")
    answer, worked = gold_and_reference(text_or_none(gold))
    reference = text_or_none(row.get("solution")) or worked
    texts = texts_of(row.get("code"), "code")
    problem = Problem(name, question, answer=answer, reference=reference, benchmark=task,
                      metadata={key: row[key] for key in ("level", "type", "subject") if row.get(key) is not None})
    return problem, [Sample(name, draw, text=text) for draw, text in enumerate(texts)]


def _kim(row: Mapping[str, Any], task: str, namer: Namer) -> Item:
    question = _question(row)
    benchmark = task or text_or_none(row.get("data_source")) or ""
    extra: dict[str, Any] = row["extra_info"] if isinstance(row.get("extra_info"), dict) else {}
    index = text_or_none(extra.get("index"))
    name = f"{benchmark}/{index}" if benchmark and index is not None else namer(question)
    answer, reference = gold_and_reference(text_or_none(row.get("gold_answer")))
    texts = texts_of(row.get("generated_responses"), "generated_responses")
    samples = []
    for draw, text in enumerate(texts):
        thought = text_or_none(entry(row.get("thinking_contents"), draw, len(texts)))
        tokens = int_or_none(entry(row.get("response_token_lengths"), draw, len(texts)))
        samples.append(Sample(name, draw, text=with_thinking(thought, text), n_tokens=tokens))
    return Problem(name, question, answer=answer, reference=reference, benchmark=benchmark), samples


QWEN_MATH = Format(
    "qwen-math", "Qwen2.5-Math style JSONL: idx, question, gt, code[]", "by hand from its description; not run here",
    _has("question", "code", "gt"), _opener(_qwen),
)
KIM = Format(
    "kim", "JSONL with generated_responses[] (Kim et al., arXiv 2603.24472)",
    "by hand from its description; not run here", _has("generated_responses"), _opener(_kim),
)
