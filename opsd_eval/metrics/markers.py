"""Epistemic markers: words that show doubt, checking and changes of course.

Two counters. ``kim10_raw`` repeats the published one exactly. The robust one matches whole words, ignores what
stands in code or mathematics or is copied from the problem, stops where a loop begins, and uses the lexicon of the
completion's language (completions in a language without a lexicon are left out, not counted as zero).
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from opsd_eval.metrics.base import NAN, Metric, PairMetric, mean_or_nan, per_text
from opsd_eval.metrics.language import UNKNOWN, language_of, lowered
from opsd_eval.metrics.lexicons import CATEGORIES, KIM_WORDS, SPACED, UNSPACED
from opsd_eval.metrics.loops import loop_onset
from opsd_eval.records import Problem, Sample

PRODUCTIVE_CHARS = 240


class Hit(NamedTuple):
    """One marker in a lower-cased text: category, name, first and one-past-last character."""

    category: str
    marker: str
    start: int
    end: int


class Lexicon:
    """One language's markers: a fast pattern that finds them, and a slower one that tells which marker was found."""

    def __init__(self, language: str) -> None:
        spaced = language in SPACED
        self.names: list[tuple[str, str]] = []
        forms: list[str] = []
        for category in CATEGORIES:
            for entry in (SPACED if spaced else UNSPACED)[language][category]:
                name, _, form = entry.partition(" = ")
                forms.append(form or name)
                self.names.append((category, name))
        body = "|".join(forms)
        # Without groups the pattern runs six times as fast, because alternatives are skipped by their first letter.
        self.pattern = re.compile(rf"\b(?:{body})\b" if spaced else body)
        self.groups = re.compile("|".join(f"({form})" for form in forms))
        self.known: dict[str, tuple[str, str]] = {}

    def find(self, plain: str) -> list[Hit]:
        """All markers of a lower-cased text."""
        hits = []
        for match in self.pattern.finditer(plain):
            found = match.group()
            if found not in self.known:
                which = self.groups.search(found) or self.groups.search(plain, match.start())
                self.known[found] = self.names[(which.lastindex or 1) - 1 if which else 0]
            hits.append(Hit(*self.known[found], match.start(), match.end()))
        return hits


_LEXICONS = {language: Lexicon(language) for language in (*SPACED, *UNSPACED)}


def lexicon_languages(text: str) -> tuple[str, ...]:
    """The lexicons to use for a text: its language's, English and Chinese when undetermined, none when unknown."""
    language = language_of(text)
    if language == UNKNOWN or language == "zh":
        return ("en",) if text.isascii() else ("en", "zh")
    return (language,) if language in _LEXICONS else ()


@per_text
def raw_hits(text: str) -> tuple[Hit, ...] | None:
    """Markers outside code and mathematics, before any loop; ``None`` in a language without a lexicon."""
    languages = lexicon_languages(text)
    if not languages:
        return None
    plain = lowered(text)
    hits: list[Hit] = []
    for language in languages:
        hits.extend(_LEXICONS[language].find(plain))
    if not hits:
        return ()
    onset = loop_onset(text)
    if onset is not None:
        hits = [hit for hit in hits if hit.start < onset]
    spans = masked_spans(plain) if any(mark in plain for mark in ("$", "`", "\\[", "\\(")) else []
    return tuple(sorted(_outside(hits, spans), key=lambda hit: hit.start))


def _outside(hits: list[Hit], spans: list[tuple[int, int]]) -> list[Hit]:
    """The hits that start in none of the spans (which are in order and do not overlap)."""
    starts = [start for start, _ in spans]
    kept = []
    for hit in hits:
        at = bisect_right(starts, hit.start) - 1
        if at < 0 or hit.start >= spans[at][1]:
            kept.append(hit)
    return kept


_DELIMITER = re.compile(r"```|`|\$\$|\$|\\[\[\]()]|\n\n|\n")
_CLOSES = {"```": "```", "`": "`", "$$": "$$", "$": "$", "\\[": "\\]", "\\(": "\\)"}
_PLAIN_WORDS = re.compile(r"[a-z]{2,} [a-z]{2,}")


def masked_spans(text: str) -> list[tuple[int, int]]:
    r"""Code (fenced, inline) and mathematics (dollars, ``\(``, ``\[``) as character ranges; one linear pass.

    Inline spans end with their line and displays with their paragraph. Two dollar signs around plain words and no
    command are prices, not mathematics. An opening without an end masks nothing.
    """
    spans: list[tuple[int, int]] = []
    opened, at = "", 0
    for match in _DELIMITER.finditer(text):
        token = match.group()
        if opened == token == "$" and _is_price(text, match.start()):
            at = match.end()
        elif opened and token == _CLOSES[opened]:
            inside = text[at : match.start()]
            if not (opened == "$" and "\\" not in inside and _PLAIN_WORDS.search(inside)):
                spans.append((at, match.end()))
                opened = ""
            else:
                at = match.end()
        elif token[0] == "\n":
            if opened in ("$", "`") or (token == "\n\n" and opened != "```"):
                opened = ""
        elif not opened and token in _CLOSES:
            opened, at = token, match.end()
    return spans


def _is_price(text: str, at: int) -> bool:
    """Whether the dollar sign at ``at`` opens an amount ("$6, perhaps $7") and so cannot close a formula."""
    return text[at - 1].isspace() and text[at + 1 : at + 2].isdigit()


# --- text copied from the problem -------------------------------------------------------------------------

_WORD = re.compile(r"\w+")
_CONTEXT = 4


@per_text
def _copied_contexts(question: str) -> frozenset[tuple[str, ...]] | None:
    """Word 4-grams of a question that contains a marker; ``None`` for one that does not."""
    plain = lowered(question)[:20_000]
    if not any(lexicon.pattern.search(plain) for lexicon in _LEXICONS.values()):
        return None
    words = _WORD.findall(plain)
    return frozenset(zip(*(words[i:] for i in range(_CONTEXT)), strict=False))


def hits_of(problem: Problem, text: str) -> tuple[Hit, ...] | None:
    """Robust markers of a completion: :func:`raw_hits` without those in a four-word run copied from the problem."""
    hits = raw_hits(text)
    if not hits:
        return hits
    copied = _copied_contexts(problem.question)
    if copied is None:
        return hits
    plain = lowered(text)
    return tuple(hit for hit in hits if not _is_copied(plain, hit, copied))


def _is_copied(text: str, hit: Hit, copied: frozenset[tuple[str, ...]]) -> bool:
    before = _WORD.findall(text[max(0, hit.start - 60) : hit.start])[-_CONTEXT + 1 :]
    inside = _WORD.findall(text[hit.start : hit.end])
    after = _WORD.findall(text[hit.end : hit.end + 60])[: _CONTEXT - 1]
    words = [*before, *inside, *after]
    return any(tuple(words[i : i + _CONTEXT]) in copied for i in range(len(words) - _CONTEXT + 1))


# --- rates ------------------------------------------------------------------------------------------------


@per_text
def _words_before_loop(text: str) -> int:
    return len(text[: loop_onset(text)].split())


def tokens_before_loop(sample: Sample, *, words: bool) -> float:
    """Tokens (or whitespace words) up to loop onset; a loop's share of the tokens is its share of the characters."""
    text = sample.text or ""
    if words:
        return float(_words_before_loop(text))
    onset = loop_onset(text)
    assert sample.n_tokens is not None
    return sample.n_tokens * (onset / len(text) if onset is not None else 1.0)


def counts_words(samples: Sequence[Sample]) -> bool:
    """Whether words must stand in for tokens, because some draw's token count is unknown."""
    return any(sample.n_tokens is None for sample in samples if sample.text is not None)


def _pooled(problem: Problem, samples: Sequence[Sample]) -> tuple[list[Hit], float]:
    """All hits of a problem's draws and all tokens (or words) they were found in."""
    words = counts_words(samples)
    found: list[Hit] = []
    length = 0.0
    for sample in samples:
        hits = hits_of(problem, sample.text) if sample.text is not None else None
        if hits is not None:
            found.extend(hits)
            length += tokens_before_loop(sample, words=words)
    return found, length


def marker_rate(problem: Problem, samples: Sequence[Sample]) -> float:
    """Epistemic markers per 1,000 tokens.

    Equation: 1,000 · hits in all draws / tokens in all draws, both up to loop onset; words where token counts are
    unknown; NaN without tokens. Neither direction is better: silence may be collapse or competence.
    Failure modes: ``likely`` and ``might`` can be the problem's content; a language without a lexicon is left out;
    harder problems draw more markers, so compare problem by problem.
    Source: word list after arXiv 2603.24472. Differs: whole words, masking, loops cut, normalised by length.
    """
    hits, length = _pooled(problem, samples)
    return 1000.0 * len(hits) / length if length else NAN


def marker_rate_of(category: str) -> Callable[[Problem, Sequence[Sample]], float]:
    """:func:`marker_rate` of one category."""

    def compute(problem: Problem, samples: Sequence[Sample]) -> float:
        hits, length = _pooled(problem, samples)
        return 1000.0 * sum(hit.category == category for hit in hits) / length if length else NAN

    compute.__name__ = f"marker_rate_{category}"
    compute.__doc__ = f"""Markers of category {category!r} per 1,000 tokens.

    Equation: as marker_rate, counting hits of this category only. Neither direction is better. Failure modes: as for
    marker_rate. Source: categories are our own.
    """
    return compute


def marker_concentration(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of the most frequent marker among all markers of the problem's draws.

    Equation: max_w n_w / Σ_w n_w; NaN without markers. Lower is better: an explosion of one word ("wait") is a tic,
    not caution. Failure modes: near 1 when there are few markers, whatever their kind; read beside marker_rate.
    Source: own definition.
    """
    hits, _ = _pooled(problem, samples)
    counts = Counter(hit.marker for hit in hits)
    return max(counts.values()) / len(hits) if hits else NAN


def kim10_raw(problem: Problem, samples: Sequence[Sample]) -> float:
    """The published marker count per completion, exactly: ten substrings, lower case, whole text.

    Equation: mean over draws of Σ_w count(w, text.lower()). Neither direction is better. Failure modes, on purpose
    not repaired: "checkout" and "waiter" count, problem text echoed counts, loops count, other languages give 0, no
    length normalisation. Source: arXiv 2603.24472. Differs: a mean over draws; the paper also prints totals.
    """
    return mean_or_nan(float(_kim_count(s.text)) for s in samples if s.text is not None)


@per_text
def _kim_count(text: str) -> int:
    plain = lowered(text)
    return sum(plain.count(word) for word in KIM_WORDS)


_RESULT = re.compile(r"=\s{0,4}\$?\s{0,4}(-?\d[\d,]{0,30}(?:\.\d{1,30})?)|\\boxed\{([^{}]{1,60})\}")


def marker_productive_share(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of markers after which something new is computed.

    Equation: markers with a result (``= number`` or a box) within the next 240 characters whose value did not occur
    as a result before the marker, over all markers; NaN without markers. Higher is better: the rest is ritual.
    Failure modes: a verification that confirms an old value is not "new"; results in words are not seen.
    Source: own definition.
    """
    productive = total = 0
    for sample in samples:
        hits = hits_of(problem, sample.text) if sample.text is not None else None
        if hits:
            total += len(hits)
            productive += _productive(sample.text or "", hits)
    return productive / total if total else NAN


def _productive(text: str, hits: Sequence[Hit]) -> int:
    results = [(match.start(), match[1] or match[2]) for match in _RESULT.finditer(lowered(text))]
    first: dict[str, int] = {}
    for at, value in results:
        first.setdefault(value.replace(",", ""), at)
    fresh = sorted(first.values())
    count = position = 0
    for hit in hits:
        while position < len(fresh) and fresh[position] < hit.end:
            position += 1
        count += position < len(fresh) and fresh[position] <= hit.end + PRODUCTIVE_CHARS
    return count


def marker_profile(problem: Problem, samples: Sequence[Sample], bins: int = 10) -> list[float]:
    """Share of a problem's markers in each tenth of its completions (by characters, up to loop onset)."""
    counts = [0] * bins
    for sample in samples:
        hits = hits_of(problem, sample.text) if sample.text is not None else None
        for hit in hits or ():
            end = loop_onset(sample.text or "") or len(sample.text or "")
            counts[min(bins - 1, bins * hit.start // max(end, 1))] += 1
    total = sum(counts)
    return [count / total if total else NAN for count in counts]


def marker_counts(problem: Problem, samples: Sequence[Sample]) -> Counter[str]:
    """How often each marker occurs in a problem's draws."""
    return Counter(hit.marker for hit in _pooled(problem, samples)[0])


def marker_shift(problem: Problem, base: Sequence[Sample], other: Sequence[Sample]) -> float:
    """How far the distribution over markers has moved from base.

    Equation: Jensen–Shannon divergence in nats between the marker frequencies of the two sides' draws, each with half
    a count added to every marker seen on either side; NaN when a side has no marker; 0 to ln 2. Neither direction is
    better. Failure modes: with few markers sampling alone moves it above 0, so compare two models against the same
    base at equal draws, not against 0. Source: arXiv 2603.24472 (marker composition). Differs: own divergence.
    """
    left, right = marker_counts(problem, base), marker_counts(problem, other)
    if not left or not right:
        return NAN
    names = sorted(set(left) | set(right))
    p = [(left[w] + 0.5) / (left.total() + 0.5 * len(names)) for w in names]
    q = [(right[w] + 0.5) / (right.total() + 0.5 * len(names)) for w in names]
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return max(0.0, 0.5 * _kl(p, middle) + 0.5 * _kl(q, middle))


def _kl(p: Sequence[float], q: Sequence[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


METRICS = (
    Metric("marker_rate", marker_rate, "neither"),
    *(Metric(f"marker_rate_{category}", marker_rate_of(category), "neither") for category in CATEGORIES),
    Metric("marker_concentration", marker_concentration, "lower"),
    Metric("marker_productive_share", marker_productive_share, "higher"),
    Metric("kim10_raw", kim10_raw, "neither"),
)
PAIR_METRICS = (PairMetric("marker_shift", marker_shift, "neither"),)
