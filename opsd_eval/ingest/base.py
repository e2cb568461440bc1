"""What every adapter shares: the source it opens, the log of what was wrong, and the values found in entries.

Nothing here or in the adapters runs code from a log, unpickles, or uses a name from a log as a path.
"""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opsd_eval.answers import extract_boxed
from opsd_eval.records import MOST, Problem, Sample, sha256_text

#: What reading a foreign entry may raise when it is not laid out as its format says.
MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError)
Item = tuple[Problem, Sequence[Sample]]


class IngestLog:
    """Counts what was wrong with a source; with ``strict`` the first malformed entry raises instead."""

    KEPT = 1000
    NOTES = 100

    def __init__(self, *, strict: bool = False):
        self.strict = strict
        self.n_malformed = 0
        self.malformed: list[str] = []
        self.notes: Counter[str] = Counter()

    def bad(self, where: str, reason: object) -> None:
        """Report one entry that is left out; ``where`` names file and line (or archive member)."""
        message = f"{where}: {shorten(str(reason))}"
        if self.strict:
            raise ValueError(f"{message} (drop --strict to keep the rest)")
        self.n_malformed += 1
        if len(self.malformed) < self.KEPT:
            self.malformed.append(message)

    def note(self, text: str) -> None:
        """Count something the reader of the numbers should know; of more than 100 kinds the rest count as one."""
        text = shorten(text)
        self.notes[text if text in self.notes or len(self.notes) < self.NOTES else "further notes of other kinds"] += 1


def shorten(text: str, limit: int = 300) -> str:
    """A text of at most ``limit`` characters."""
    return text if len(text) <= limit else text[:limit] + "…"


@dataclass(frozen=True)
class Source:
    """An opened log: its files, what it says about the run, and its problems with their samples, in file order.

    ``items(log)`` may give a problem several times, with new samples each time. ``facts`` are RunRecord fields.
    """

    files: tuple[Path, ...]
    benchmark: str
    items: Callable[[IngestLog], Iterator[Item]]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A log format: ``matches(path)`` recognises a file or folder, ``open(path, task)`` reads it.

    ``tested`` says how its fixture was made: by which harness and version, or by hand from a description.
    """

    name: str
    summary: str
    tested: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, str | None], Source]


def merged(name: str, sources: Mapping[str, Source]) -> Source:
    """Several tasks of one run as one source called ``name``: each problem's task is in its ``axes["task"]``.

    What the tasks' records agree on is kept as it is, the rest of their config by task. Different models raise.
    """
    facts = {task: source.facts for task, source in sources.items()}
    models = {json.dumps(one.get("model"), sort_keys=True, default=str): task for task, one in facts.items()}
    if len(models) > 1:
        shown = "; ".join(f"{task}: {shorten(model, 100)}" for model, task in models.items())
        raise ValueError(f"the tasks of {name} are of different models ({shown}); ingest each model on its own")

    def items(log: IngestLog) -> Iterator[Item]:
        for task, source in sources.items():
            for problem, samples in source.items(log):
                yield replace(problem, axes={"task": task, **problem.axes}), samples

    shared = {key: agreed([one.get(key) or {} for one in facts.values()]) for key in ("model", "sampling", "config")}
    differing = {
        task: {key: value for key, value in (one.get("config") or {}).items() if key not in shared["config"]}
        for task, one in facts.items()
    }
    shared["config"] |= {"tasks": differing}
    files = tuple(dict.fromkeys(file for source in sources.values() for file in source.files))
    return Source(files, name, items, shared)


def agreed(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that all records have, with the same value."""
    first, *others = records
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in others)}


# --- values -----------------------------------------------------------------------------------------------


def text_or_none(value: Any) -> str | None:
    """A text as it is, a finite number as its shortest text, anything else (NaN too) ``None``."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return None


def int_or_none(value: Any) -> int | None:
    """A whole number from 0 to 2⁵³, which any count fits and any float holds exactly; else ``None``."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST else None


def texts_of(value: Any, key: str, log: IngestLog) -> list[str | None]:
    """A list of completions (one text is a list of one); null among them stays null, anything else raises."""
    texts: Any = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(v, str | None) for v in texts):
        raise ValueError(f"{key} should be a list of texts, got {shorten(repr(value), 80)}")
    for _ in range(texts.count(None)):
        log.note("completions that are null in the log: kept as unknown, never graded")
    return texts


def entry(values: Any, index: int, size: int) -> Any:
    """``values[index]`` when ``values`` is a list of this size, else ``None``."""
    return values[index] if isinstance(values, list) and len(values) == size else None


def gold_of(value: Any) -> tuple[str | None, str | None, dict[str, Any]]:
    """(gold answer, worked solution, metadata) of a target as logs write it: a text, a number, or a list of them.

    The answers of a list are alternatives: the first is the gold answer, ``metadata["accepted_answers"]`` holds all of
    them, and grading accepts any.
    """
    found = [gold_and_reference(text_or_none(v)) for v in (value if isinstance(value, list) else [value])]
    known = [(answer, reference) for answer, reference in found if answer is not None]
    if not known:
        return None, None, {}
    return *known[0], {"accepted_answers": [answer for answer, _ in known]} if len(known) > 1 else {}


def list_of(value: Any) -> Any:
    """A list of texts that was logged as its Python text, ``['4', 'four']``, as the list it was; else the value."""
    if not (isinstance(value, str) and value.startswith(("['", '["', "[['", '[["'))):
        return value
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value
    return found if isinstance(found, list) and all(isinstance(v, str | list) for v in found) else value


def finish_of(reason: Any, n_tokens: int | None = None, limit: Any = None) -> str | None:
    """``stop``, ``length``, or another reason as it was logged.

    A log without reasons says ``length`` all the same where a completion has as many tokens as the log's limit.
    """
    if isinstance(reason, str) and reason:
        return _REASONS.get(reason.lower(), reason)
    at_limit = type(limit) is int and limit > 0 and n_tokens is not None and n_tokens >= limit
    return "length" if at_limit else None


_REASONS = {"stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop",
            "length": "length", "max_tokens": "length", "model_length": "length", "max_new_tokens": "length"}


def gold_and_reference(target: str | None) -> tuple[str | None, str | None]:
    r"""Split a gold target into (final answer, worked solution).

    A target with ``####`` (GSM8K) or a ``\boxed{}`` is a solution that contains its answer; any other target is the
    answer itself and there is no solution.
    """
    if target is None or not target.strip():
        return None, None
    if "####" in target:
        return target.rsplit("####", 1)[1].strip() or None, target
    boxed = extract_boxed(target)
    return (boxed, target) if boxed is not None else (target.strip(), None)


def with_thinking(reasoning: str | None, text: str | None) -> str | None:
    """A completion with its separately logged reasoning put back in front, as models write it.

    Cut off while thinking, a completion has reasoning and no text: its block stays open.
    """
    if reasoning and reasoning.strip() and not (text or "").strip():
        return f"<think>\n{reasoning}"
    if text is None or not reasoning or not reasoning.strip() or "</think>" in text or reasoning.strip() in text:
        return text
    return f"<think>\n{reasoning}\n</think>\n\n{text}"


def prompt_hash(prompt: Any) -> str | None:
    """Hash of a prompt as text (a chat as compact JSON), so that two runs' prompts can be compared."""
    if prompt is None:
        return None
    return sha256_text(prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True))


class Namer:
    """Ids for problems that have none: a hash of the question, numbered when one question occurs again in a file."""

    def __init__(self, prefix: str = ""):
        self.prefix = f"{prefix}/" if prefix else ""
        self.seen: Counter[str] = Counter()

    def __call__(self, question: str) -> str:
        """The id for the next problem with this question."""
        key = sha256_text(question)[:12]
        self.seen[key] += 1
        count = self.seen[key]
        return f"{self.prefix}{key}" + (f"#{count}" if count > 1 else "")
