"""Step consistency without a judge: arithmetic validity, closure, bindings, agreement of intermediate values.

Every metric reads a completion up to the onset of a loop, so that a looping equation does not count a thousand times.
The checker behind them is described, with its measured error rates, in docs/arithmetic-checker.md.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction

from opsd_eval.answers import exact_number, extract_boxed, normalise
from opsd_eval.arithmetic import Link, Report, check
from opsd_eval.arithmetic.retraction import MARKER
from opsd_eval.metrics.base import NAN, Metric, mean_or_nan, per_text
from opsd_eval.metrics.loops import loop_onset
from opsd_eval.metrics.paths import report_of
from opsd_eval.records import Problem, Sample

Number = int | Fraction

MIN_DRAWS = 4
MAX_BOXES = 20
MAX_SEARCHED = 200_000
CHECKED = ("valid", "invalid", "recovered")
_NUMBERS = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d{1,60})(?:\.\d{1,60})?(?:/\d{1,30}(?![\d/]))?")
_SYMBOL = re.compile(r"(?:^|[\s,;:($\"\[{&])(\\?[A-Za-z](?:_\{?\w{1,4}\}?|')?)\s*$")
_OPERAND_BEFORE = re.compile(r"[-+*/^=\u00d7\u00f7\\\d)]\s*$")
_OTHER_CASE = re.compile(
    r"\b(?:or|case|if|when|let|suppose|assume|try|for|either|another|second|new|next|now|then|becomes|increment\w*)\b"
    r"|\\pm|\u00b1|\\text\{ ?or",
    re.IGNORECASE,
)


def links_of(problem: Problem, text: str) -> tuple[Link, ...]:
    """The equality links of a completion up to loop onset.

    ``problem.metadata["modulus"]``, where a problem has one, makes sides equal that agree modulo it.
    """
    modulus = problem.metadata.get("modulus")
    report: Report = check(text, modulus=modulus) if type(modulus) is int and modulus > 0 else report_of(text)
    onset = loop_onset(text) if report.links else None
    return report.links if onset is None else tuple(link for link in report.links if link.at < onset)


def _texts(samples: Iterable[Sample]) -> Iterator[str]:
    return (sample.text for sample in samples if sample.text is not None)


def _counts(problem: Problem, samples: Sequence[Sample]) -> Counter[str]:
    """Links of all draws of a problem by verdict."""
    return Counter(link.verdict for text in _texts(samples) for link in links_of(problem, text))


def step_validity(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of the checked equations that hold.

    Equation: valid / (valid + invalid) over the equality links of all draws whose both sides are numeric; links that
    the text takes back and redoes count in neither. NaN where nothing could be checked. Higher is better. Failure
    modes: sees arithmetic only, so a wrong plan carried out rightly scores 1; says little without step_coverage beside
    it. Source: own definition. Differs: ReasonEval (arXiv 2404.05692) judges steps by a trained model.
    """
    found = _counts(problem, samples)
    total = found["valid"] + found["invalid"]
    return found["valid"] / total if total else NAN


def step_coverage(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws in which at least one equation could be checked.

    Equation: draws with a valid, invalid or recovered link / draws with text. NaN without text. Neither direction is
    better. Failure modes: falls when solutions turn to words or symbols, which is no fault. Source: own definition.
    """
    texts = list(_texts(samples))
    return mean_or_nan(float(any(link.verdict in CHECKED for link in links_of(problem, text))) for text in texts)


def first_error_position(problem: Problem, samples: Sequence[Sample]) -> float:
    """Where in a completion its first wrong equation stands.

    Equation: mean over draws with an invalid link of (position of its sign / characters of the completion), in [0, 1).
    NaN when no draw has one. Neither direction is better. Failure modes: only draws with errors count, so it says
    nothing about how many there are; a longer completion moves it to the front. Source: own definition.
    """
    return mean_or_nan(_first_error(problem, text) for text in _texts(samples))


def _first_error(problem: Problem, text: str) -> float:
    for link in links_of(problem, text):
        if link.verdict == "invalid":
            return link.at / len(text)
    return NAN


def recovered_error_rate(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of the wrong equations that the text itself takes back and redoes.

    Equation: recovered / (recovered + invalid) over the links of all draws; NaN without a wrong equation. Higher is
    better. Failure modes: a correction in words only is not seen; an error never noticed by anyone is in neither
    count. Source: own definition.
    """
    found = _counts(problem, samples)
    total = found["recovered"] + found["invalid"]
    return found["recovered"] / total if total else NAN


# --- closure --------------------------------------------------------------------------------------------------


def closure(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of answered draws whose final answer is asserted or derived before it is boxed.

    Equation: draws whose last boxed value occurs, as a number or a side of an equation (for other answers: as text),
    before that box / draws with a box. NaN without a box. Higher is better: the rest answer out of nowhere. Failure
    modes: a lucky early mention closes too; see closure_derived for the stricter count. Source: own definition.
    """
    return mean_or_nan(_closes(problem, text, derived=False) for text in _texts(samples))


def closure_derived(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of answered draws whose final answer is a side of an equation written before it is boxed.

    Equation: as closure, but a mention outside an equation does not count; NaN unless the answer is a number.
    Higher is better. Failure modes: a derivation in words counts as none. Source: own definition.
    """
    return mean_or_nan(_closes(problem, text, derived=True) for text in _texts(samples))


def _closes(problem: Problem, text: str, *, derived: bool) -> float:
    answer = extract_boxed(text)
    if answer is None:
        return NAN
    end = _start_of_box(text, answer)
    value = exact_number(normalise(answer))
    if value is None:
        return NAN if derived else float(normalise(answer) in normalise_text(text[:end]))
    sides = (side for link in links_of(problem, text) if link.end <= end for side in (link.left, link.right))
    if any(side == value for side in sides):
        return 1.0
    return 0.0 if derived else float(value in _numbers_in(text[:end]))


def _start_of_box(text: str, answer: str) -> int:
    """Where the box with the final answer begins; boxes left open after it are passed over."""
    end = len(text)
    for _ in range(MAX_BOXES):
        end = text.rfind("\\boxed", 0, end)
        if extract_boxed(text[end : end + len(answer) + 200]) == answer:
            break
    return max(end, 0)


def normalise_text(text: str) -> str:
    """A text without the spacing and layout that answers lose in their normal form."""
    return re.sub(r"\\(?:left|right|displaystyle)|\\[!,;: ]|[\s$~]", "", text)


def _numbers_in(text: str) -> frozenset[Number]:
    """Every number written in the last 200,000 characters of a text, exactly."""
    found = (exact_number(match.group().replace(",", "")) for match in _NUMBERS.finditer(text[-MAX_SEARCHED:]))
    return frozenset(number for number in found if number is not None)


# --- bindings -------------------------------------------------------------------------------------------------


def binding_consistency(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of the symbols given a number that are never given a different one.

    Equation: mean over draws with a bound symbol of (symbols without conflict / symbols bound); a symbol is a letter,
    perhaps with an index, alone left of an equals sign whose right side is numeric. Two values conflict when they
    differ by more than 1 % and nothing between them takes the first back or opens another case ("or", "if", "let").
    NaN without bindings. Higher is better. Failure modes: letters reused on purpose without a word count as
    conflicts; most symbols are bound once and cannot conflict. Source: own definition.
    """
    return mean_or_nan(_consistent_symbols(problem, text) for text in _texts(samples))


def _consistent_symbols(problem: Problem, text: str) -> float:
    values: dict[str, list[tuple[int, int, Number]]] = {}
    for symbol, start, end, value in bindings(text, links_of(problem, text)):
        values.setdefault(symbol, []).append((start, end, value))
    if not values:
        return NAN
    return sum(not _conflicts(text, places) for places in values.values()) / len(values)


def bindings(text: str, links: Sequence[Link]) -> Iterator[tuple[str, int, int, Number]]:
    """Yield (symbol, start, end, value) for ``x = 5``, ``A = 3 + 4 = 7``: a lone symbol and the end of its chain."""
    for index, link in enumerate(links):
        if link.left is not None or link.lhs or link.right is None:
            continue
        match = _SYMBOL.search(text, max(0, link.at - 12), link.at)
        if match is None or _OPERAND_BEFORE.search(text[max(0, match.start(1) - 4) : match.start(1)]):
            continue
        last = link
        for later in links[index + 1 :]:
            if not last.at < later.start < last.end or later.right is None:
                break
            last = later
        assert last.right is not None
        yield match.group(1), match.start(1), last.end, last.right


def _conflicts(text: str, places: Sequence[tuple[int, int, Number]]) -> bool:
    for (_, end, before), (start, _, after) in itertools.pairwise(places):
        if abs(before - after) * 100 <= max(abs(before), abs(after)):
            continue
        between = text[end:start][-400:]
        if not MARKER.search(between) and not _OTHER_CASE.search(between) and "'" not in between:
            return True
    return False


# --- agreement ------------------------------------------------------------------------------------------------


@per_text
def intermediate_values(text: str) -> frozenset[Number]:
    """The numbers a completion computes or sets: right sides of its equality signs, up to loop onset."""
    links = links_of(_NO_PROBLEM, text)
    return frozenset(link.right for link in links if link.right is not None)


_NO_PROBLEM = Problem(problem_id="none", question="")


def operation_path(text: str) -> tuple[str, ...]:
    """What a completion computes, step by step: operators and result of each readable equation, in order."""
    links = links_of(_NO_PROBLEM, text)
    return tuple(f"{link.operators}={link.right}" for link in links if link.operators and link.right is not None)


def weight(value: Number) -> float:
    """How much it means that two solutions share a value: the bits needed to write it.

    Equation: log2(1 + |p|·q) for the fraction p/q; 0 for zero, 1 for one, 6.7 for a hundred, about 10 for 24.15.
    Source: own definition, in the place of an inverse document frequency, which one problem cannot give.
    """
    return math.log2(1 + abs(value.numerator) * value.denominator)


def sample_agreement(problem: Problem, samples: Sequence[Sample]) -> list[float]:
    """For each sample, the weighted share of its intermediate values that the other samples have too.

    NaN for a sample without such values, and for all when fewer than four samples have text. Values of the problem
    statement and the sample's own final answer are left out.
    """
    given = _numbers_in(problem.question)
    values = [None if s.text is None else _own_values(s) - given for s in samples]
    present = [found for found in values if found is not None]
    if len(present) < MIN_DRAWS:
        return [NAN] * len(samples)
    holders = Counter(value for found in present for value in found)
    return [NAN if found is None else _shared(found, holders, len(present) - 1) for found in values]


def _own_values(sample: Sample) -> frozenset[Number]:
    text = sample.text or ""
    boxed = extract_boxed(text) or sample.answer_strict or sample.answer_relaxed
    answer = exact_number(normalise(boxed)) if boxed else None
    return intermediate_values(text) - ({answer} if answer is not None else set())


def _shared(found: frozenset[Number], holders: Counter[Number], others: int) -> float:
    total = math.fsum(map(weight, found))
    if not total:
        return NAN
    return math.fsum(weight(value) * (holders[value] - 1) / others for value in found) / total


def cross_sample_agreement(problem: Problem, samples: Sequence[Sample]) -> float:
    """How far the samples of one problem compute the same intermediate values.

    Equation: mean over samples i with intermediate values V_i of Σ_{v∈V_i} w(v)·f_i(v) / Σ_{v∈V_i} w(v), f_i(v) the
    share of the other n − 1 samples with v among their values; V_i without the numbers of the problem and the final
    answer; w(v) = log2(1 + |p|·q) for v = p/q. NaN for fewer than four samples with text. Neither direction is
    better: it falls when reasoning turns random and rises when all samples become one, so read it beside the
    diversity metrics. Failure modes: blind to steps without an equation. Source: own definition, after
    self-consistency (arXiv 2203.11171).
    """
    return mean_or_nan(sample_agreement(problem, samples))


Compute = Callable[[Problem, Sequence[Sample]], float]

METRICS: tuple[Metric, ...] = (
    Metric("step_validity", step_validity, "higher"),
    Metric("step_coverage", step_coverage, "neither"),
    Metric("first_error_position", first_error_position, "neither"),
    Metric("recovered_error_rate", recovered_error_rate, "higher"),
    Metric("closure", closure, "higher"),
    Metric("closure_derived", closure_derived, "higher", default=False),
    Metric("binding_consistency", binding_consistency, "higher"),
    Metric("cross_sample_agreement", cross_sample_agreement, "neither"),
)
STEP_METRICS = METRICS
