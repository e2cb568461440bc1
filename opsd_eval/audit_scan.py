"""One pass over a sample set that collects what the audit's checks need, in memory that the text does not enter."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opsd_eval.answers import extract_relaxed, extract_strict
from opsd_eval.engines.base import row_seed
from opsd_eval.records import Problem, RunRecord, Sample, iter_problem_samples, read_problems, read_run

SUBSET = 20_000
LONG = 200
_KEPT = 100


@dataclass
class Texts:
    """Counts over a deterministic subset of at most about 20,000 non-empty completions."""

    n: int = 0
    no_strict: int = 0
    relaxed_only: int = 0
    unclosed: int = 0
    loops: int = 0
    off_language: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    chars_per_token: list[float] = field(default_factory=list)


@dataclass
class Scan:
    """What was seen in one sample set. Hashes stand for texts; ids are kept, completions are not."""

    folder: Path
    run: RunRecord
    problems: Mapping[str, Problem]
    draws: dict[str, int] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    hashes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    patterns: Counter[tuple[int, ...]] = field(default_factory=Counter)
    repeating: list[str] = field(default_factory=list)
    long_repeating: list[str] = field(default_factory=list)
    copies: int = 0
    long_copies: int = 0
    compared: int = 0
    owners: dict[int, int] = field(default_factory=dict)
    cross_copies: int = 0
    cross_examples: list[str] = field(default_factory=list)
    same_seed: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)  # draws of a seed that is not this run's
    prompts: dict[str, str] = field(default_factory=dict)
    varying_prompts: list[str] = field(default_factory=list)
    finish: Counter[str | None] = field(default_factory=Counter)
    at_limit: int = 0
    below_limit: int = 0
    empty: Counter[str] = field(default_factory=Counter)
    texts: Texts = field(default_factory=Texts)

    @property
    def name(self) -> str:
        """The folder as it was given."""
        return str(self.folder)

    @property
    def n_samples(self) -> int:
        """All samples."""
        return sum(self.draws.values())

    def setting(self, name: str) -> Any:
        """A sampling setting of the run record, ``None`` when it is not recorded."""
        return self.run.sampling.get(name, self.run.config.get(name))


def scan(folder: Path) -> Scan:
    """Read a sample set once; raises ``ValueError`` naming file and line where it cannot be read."""
    from tqdm import tqdm

    found = Scan(folder, read_run(folder), read_problems(folder))
    stride = max(1, -(-_lines(folder / "samples.jsonl") // SUBSET))
    groups = iter_problem_samples(folder, found.problems, graded=False)
    at = 0
    bar = tqdm(groups, total=len(found.problems), desc=f"audit {folder.name}", leave=False, disable=None)
    for problem_id, samples in bar:
        _group(found, problem_id, samples)
        for sample in samples:
            if at % stride == 0 and (sample.text or "").strip():
                _text(found.texts, found.problems[problem_id], sample)
            at += 1
    return found


def _lines(path: Path) -> int:
    if not path.exists():
        raise ValueError(f"{path}: no such file; is {path.parent} a sample set?")
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _group(found: Scan, problem_id: str, samples: Sequence[Sample]) -> None:
    found.draws[problem_id] = len(samples)
    if [s.draw for s in samples] != list(range(len(samples))):
        found.gaps.append(problem_id)
    hashes = tuple(_hash(s.text) for s in samples)
    found.hashes[problem_id] = hashes
    own = found.run.kind == "samples" and found.run.seed is not None and "max_new_tokens" in found.run.sampling
    for sample in samples:
        found.finish[sample.finish_reason] += 1
        found.empty[problem_id] += int(not (sample.text or "").strip())
        if own and sample.seed not in (None, row_seed(found.run.seed or 0, problem_id, sample.draw)):
            found.foreign.append(f"{problem_id} draw {sample.draw}")
        limit, length = found.setting("max_new_tokens"), sample.n_tokens
        if sample.finish_reason is None and isinstance(limit, int) and length is not None:
            found.at_limit += length >= limit
            found.below_limit += length < limit
    _repeats(found, problem_id, samples, hashes)
    _across(found, problem_id, samples, hashes)
    prompts = {s.prompt_sha256 for s in samples if s.prompt_sha256}
    if len(prompts) > 1:
        found.varying_prompts.append(problem_id)
    if prompts:
        found.prompts[problem_id] = min(prompts)


def _repeats(found: Scan, problem_id: str, samples: Sequence[Sample], hashes: tuple[int, ...]) -> None:
    """Which draw repeats which: pattern (0, 1, 0, 1) means that draws 2 and 3 repeat draws 0 and 1."""
    if len(samples) < 2 or not any((s.text or "").strip() for s in samples):
        return
    pattern = tuple(hashes.index(h) for h in hashes)
    copies = [draw for draw, first in enumerate(pattern) if draw != first and (samples[draw].text or "").strip()]
    long = sum(len(samples[draw].text or "") >= LONG for draw in copies)
    found.compared += 1
    found.patterns[pattern] += 1
    found.copies += len(copies)
    found.long_copies += long
    if copies and len(found.repeating) < _KEPT:
        found.repeating.append(problem_id)
    if long and len(found.long_repeating) < _KEPT:
        found.long_repeating.append(problem_id)
    seeds = [s.seed for s in samples if s.seed is not None]
    if len(seeds) > 1 and len(set(seeds)) == 1:
        found.same_seed.append(problem_id)


def _across(found: Scan, problem_id: str, samples: Sequence[Sample], hashes: tuple[int, ...]) -> None:
    """Long completions that already stood under another problem with another question."""
    here = _hash(found.problems[problem_id].question)
    for sample, key in zip(samples, hashes, strict=True):
        if len(sample.text or "") >= LONG and found.owners.setdefault(key, here) != here:
            found.cross_copies += 1
            if len(found.cross_examples) < _KEPT:
                found.cross_examples.append(f"{problem_id} draw {sample.draw}")


def _hash(text: str | None) -> int:
    """Hash of a text without the white space at its ends, which harnesses strip or keep."""
    data = (text or "").strip().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _text(texts: Texts, problem: Problem, sample: Sample) -> None:
    from opsd_eval.metrics.language import is_off_language, language_of
    from opsd_eval.metrics.loops import is_loop

    text = sample.text or ""
    texts.n += 1
    if extract_strict(text) is None:
        texts.no_strict += 1
        texts.relaxed_only += int(extract_relaxed(text) is not None)
    if sample.finish_reason is None:
        texts.unclosed += int(text.rfind("<think>") > text.rfind("</think>"))
    texts.loops += int(is_loop(text))
    texts.languages[language_of(text)] += 1
    texts.off_language += int(is_off_language(problem.question, text))
    if sample.n_tokens and sample.n_tokens >= 50:
        texts.chars_per_token.append(len(text) / sample.n_tokens)
