"""JSON Lines with one problem a line and its completions in a list.

``qwen-math``: Qwen2.5-Math and its descendants (limit-of-RLVR, simpleRL): idx, question, gt, solution, code[],
finish_reason[]; their file names say seed and temperature, their folder the benchmark.
``kim``: question, generated_responses[], thinking_contents[], response_token_lengths[], gold_answer, data_source; their
file names say temperature and draws, their folder the benchmark.

A folder whose files differ only in seed or range of problems is one run: more seeds are more draws.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
    finish_of,
    gold_of,
    int_or_none,
    text_or_none,
    texts_of,
    with_thinking,
)
from opsd_eval.ingest.reading import files_of, first_row, iter_rows, one_run, one_task, plain_name
from opsd_eval.records import Problem, Sample

#: How the scripts name their files: ``test_<prompt>_<limit>_seed<s>_t<temperature>_s<start>_e<end>`` (Qwen2.5-Math),
#: ``test_t<temperature>_think_k<draws>_s<start>_e<end>`` (Kim et al. and what their script goes back to).
_NAME = re.compile(
    r".+?(?:_seed(?P<seed>\d{1,9}))?_t(?P<temperature>\d{1,3}(?:\.\d{1,6})?)(?(seed)|(?:_[a-z-]+)?_k\d{1,6})_s-?\d+_e-?\d+"
)
_SHARD = re.compile(r"(?<=_)(?:seed|s|e)-?\d+(?=_|$)")


@dataclass
class _Place:
    """What rows are read into: the benchmark, the seed of the file, and how many draws each problem has so far."""

    task: str
    log: IngestLog
    seed: int | None = None
    namer: Namer = field(default_factory=Namer)
    drawn: Counter[str] = field(default_factory=Counter)

    def draws(self, name: str, size: int) -> range:
        """The next ``size`` draws of a problem."""
        start = self.drawn[name]
        self.drawn[name] += size
        return range(start, start + size)


Reader = Callable[[Mapping[str, Any], _Place], Item]


def _matcher(*choices: set[str]) -> Callable[[Path], bool]:
    def fits(path: Path) -> bool:
        if path.is_dir():
            return bool(_files(path, fits))
        keys = set(first_row(path))
        return any(choice <= keys for choice in choices)

    return fits


def _files(path: Path, fits: Callable[[Path], bool]) -> list[Path]:
    return [p for p in files_of(path, "*.jsonl", "*.json") if path.is_file() or fits(p)]


def _opener(read: Reader, fits: Callable[[Path], bool]) -> Callable[[Path, str | None], Source]:
    def open_source(path: Path, task: str | None) -> Source:
        files = _one_run(_files(path, fits), task, path)
        named = _NAME.fullmatch(_stem(files[0]))
        benchmark = task or (files[0].parent.name if named else "")

        def items(log: IngestLog) -> Iterator[Item]:
            drawn: Counter[str] = Counter()
            for file in files:
                seed = int(m["seed"]) if (m := _NAME.fullmatch(_stem(file))) and m["seed"] else None
                place = _Place(benchmark, log, seed, Namer(benchmark), drawn if len(files) > 1 else Counter())
                yield from _items(file, read, place)

        sampling = {"temperature": float(named["temperature"])} if named else {}
        return Source(tuple(files), benchmark, items, {"sampling": sampling})

    return open_source


def _stem(path: Path) -> str:
    return Path(plain_name(path)).stem


def _one_run(files: list[Path], task: str | None, path: Path) -> list[Path]:
    """The files of one run: one file, or files of one folder that differ only in seed, start and end."""
    if path.is_file() or len(files) < 2:
        return files
    folders = {p.parent.name for p in files}
    chosen = one_task(sorted(folders), task, path) if len(folders) > 1 else None
    kept = [p for p in files if chosen in (None, p.parent.name)]
    if len({(p.parent, _SHARD.sub("", _stem(p))) for p in kept}) > 1:
        one_run(kept, chosen or kept[0].parent.name, path)
    return sorted(kept, key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)])


def _items(path: Path, read: Reader, place: _Place) -> Iterator[Item]:
    seen: set[str] = set()
    for where, row in iter_rows(path, place.log):
        try:
            problem, samples = read(row, place)
            if problem.problem_id in seen:
                raise ValueError(f"problem {problem.problem_id} appears again (an appended run?); the first is kept")
            seen.add(problem.problem_id)
            yield problem, samples
        except MALFORMED as error:
            place.log.bad(where, error)


def _question(row: Mapping[str, Any]) -> str:
    question = row.get("question") or row.get("problem")
    if not isinstance(question, str):
        raise ValueError("neither question nor problem is a text")
    return question


def _qwen(row: Mapping[str, Any], place: _Place) -> Item:
    question = _question(row)
    index = text_or_none(row.get("idx"))
    name = f"{place.namer.prefix}{index}" if index else place.namer(question)
    answer, worked, more = gold_of(row.get("gt") if row.get("gt") not in (None, "") else row.get("answer"))
    reference = text_or_none(row.get("solution")) or worked
    texts = texts_of(row.get("code"), "code", place.log)
    metadata = {key: row[key] for key in ("level", "type", "subject") if row.get(key) is not None} | more
    problem = Problem(name, question, answer=answer, reference=reference, benchmark=place.task, metadata=metadata)
    reasons = row.get("finish_reason")
    return problem, [
        Sample(name, draw, text=text, seed=place.seed, finish_reason=finish_of(entry(reasons, at, len(texts))))
        for at, (draw, text) in enumerate(zip(place.draws(name, len(texts)), texts, strict=True))
    ]


def _kim(row: Mapping[str, Any], place: _Place) -> Item:
    question = _question(row)
    benchmark = place.task or text_or_none(row.get("data_source")) or ""
    extra: dict[str, Any] = row["extra_info"] if isinstance(row.get("extra_info"), dict) else {}
    index = text_or_none(extra.get("index")) or text_or_none(row.get("id"))
    name = f"{benchmark}/{index}" if benchmark and index else place.namer(question)
    answer, reference, metadata = gold_of(row.get("gold_answer"))
    texts = texts_of(row.get("generated_responses"), "generated_responses", place.log)
    samples = []
    for at, (draw, text) in enumerate(zip(place.draws(name, len(texts)), texts, strict=True)):
        thought = text_or_none(entry(row.get("thinking_contents"), at, len(texts)))
        tokens = int_or_none(entry(row.get("response_token_lengths"), at, len(texts)))
        samples.append(Sample(name, draw, text=with_thinking(thought, text), n_tokens=tokens))
    problem = Problem(name, question, answer=answer, reference=reference, benchmark=benchmark, metadata=metadata)
    return problem, samples


_IS_QWEN = _matcher({"question", "code", "gt"}, {"problem", "code", "gt"}, {"question", "code", "pred", "answer"})
_IS_KIM = _matcher({"generated_responses"})

QWEN_MATH = Format(
    "qwen-math", "Qwen2.5-Math style JSONL: idx, question, gt, code[]",
    "by hand from the script that writes it; lines of a public log went through", _IS_QWEN, _opener(_qwen, _IS_QWEN),
)
KIM = Format(
    "kim", "JSONL with generated_responses[] (Kim et al., arXiv 2603.24472)",
    "by hand from the scripts that write and read it; no public log found", _IS_KIM, _opener(_kim, _IS_KIM),
)
