"""Degeneration and length: compression, repeated n-grams, unclosed thinking, talk after the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from opsd_eval.metrics.base import NAN, Metric, mean_or_nan, per_text
from opsd_eval.metrics.loops import compression_ratio_of
from opsd_eval.records import Problem, Sample

NGRAM_WORDS, NGRAM_CHARS = 4, 20
_MAX_UNITS = 20_000
_OPENERS, _CLOSERS = ("<think>", "[THINK]"), ("</think>", "[/THINK]")


def completion_tokens(problem: Problem, samples: Sequence[Sample]) -> float:
    """Mean number of tokens per completion.

    Equation: mean of ``n_tokens`` over draws where it is known; NaN elsewhere. Neither direction is better.
    Failure modes: tokenizers differ, so compare models of one family. Source: none needed.
    """
    return mean_or_nan(float(s.n_tokens) for s in samples if s.n_tokens is not None)


def compression_ratio(problem: Problem, samples: Sequence[Sample]) -> float:
    """Mean zlib ratio of the completions.

    Equation: mean of len(zlib level 9) / len(UTF-8 bytes); empty completions are left out. Neither direction is
    better: ordinary mathematical prose is near .42 (5th percentile .31), loops are below .10, noise is near 1.
    Failure modes: short texts do not compress; Chinese text has another baseline (.25–.31 without loops).
    Source: own measurement on public logs.
    """
    return mean_or_nan(compression_ratio_of(s.text) for s in samples if s.text)


@per_text
def repeated_ngrams(text: str) -> float:
    """1 − distinct / all n-grams (4 words; 20 characters where words are longer than 20 characters on average)."""
    words: Sequence[str] = text[-20 * _MAX_UNITS :].split()[-_MAX_UNITS:]
    if len(words) * 20 >= min(len(text), 20 * _MAX_UNITS):
        grams = list(zip(*(words[i:] for i in range(NGRAM_WORDS)), strict=False))
        return 1.0 - len(set(grams)) / len(grams) if grams else NAN
    tail = "".join(words)[-_MAX_UNITS:]
    chunks = [tail[i : i + NGRAM_CHARS] for i in range(len(tail) - NGRAM_CHARS + 1)]
    return 1.0 - len(set(chunks)) / len(chunks) if chunks else NAN


def ngram_repetition(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of repeated 4-word sequences.

    Equation: mean over draws of 1 − |distinct 4-grams| / |4-grams|, over the last 20,000 words; NaN below four words.
    Lower is better. Failure modes: grows with length; formulas spaced by tokenisation repeat by nature.
    Source: arXiv 1908.04319 (seq-rep-4). Differs: words instead of tokens; 20 characters for unspaced scripts.
    """
    return mean_or_nan(repeated_ngrams(s.text) for s in samples if s.text)


def unclosed_think_rate(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of completions whose thinking block is opened and never closed.

    Equation: mean over draws of 1[last opening tag after the last closing tag]. Lower is better. Failure modes: where
    the prompt opens the block the completion has no opening tag, and only ``truncation_rate`` shows the cut.
    Source: own definition.
    """
    return mean_or_nan(float(_is_unclosed(s.text)) for s in samples if s.text is not None)


def _is_unclosed(text: str) -> bool:
    opened = max(text.rfind(tag) for tag in _OPENERS)
    return opened >= 0 and opened > max(text.rfind(tag) for tag in _CLOSERS)


_BRACE = re.compile(r"[{}]")


@per_text
def end_of_first_box(text: str) -> int | None:
    """Index after the first balanced box; ``None`` when no box closes."""
    start = text.find("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for match in _BRACE.finditer(text, start):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return match.end()
    return None


def tokens_after_answer(problem: Problem, samples: Sequence[Sample]) -> float:
    """Mean number of tokens after the first boxed answer: checking, or not knowing when to stop.

    Equation: mean over draws with a box of n_tokens · (characters after the first box / characters); words where the
    token count is unknown; NaN without a box. Neither direction is better. Failure modes: the share of characters
    stands in for the share of tokens. Source: own definition (over-checking, arXiv 2412.21187).
    """
    return mean_or_nan(_after(sample) for sample in samples)


def _after(sample: Sample) -> float:
    text = sample.text or ""
    end = end_of_first_box(text)
    if end is None:
        return NAN
    if sample.n_tokens is None:
        return float(len(text[end:].split()))
    return sample.n_tokens * (len(text) - end) / len(text)


METRICS = (
    Metric("completion_tokens", completion_tokens, "neither"),
    Metric("compression_ratio", compression_ratio, "neither"),
    Metric("ngram_repetition", ngram_repetition, "lower"),
    Metric("unclosed_think_rate", unclosed_think_rate, "lower"),
    Metric("tokens_after_answer", tokens_after_answer, "neither"),
)
