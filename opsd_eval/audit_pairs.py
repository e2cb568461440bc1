"""The audit's checks of a second sample set against the first: what would make their comparison unfair."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opsd_eval.audit import Finding
from opsd_eval.audit_advice import finding, share
from opsd_eval.audit_scan import Scan

_SETTINGS = ("temperature", "top_p", "top_k", "max_new_tokens", "thinking")


def _pair(first: Scan, other: Scan) -> str:
    return f"{other.name} against {first.name}"


def _shared(first: Scan, other: Scan) -> list[str]:
    return [i for i in other.problems if i in first.problems]


def same_problems(first: Scan, other: Scan) -> Iterator[Finding]:
    """Different problems, or one id for different questions."""
    where, shared = _pair(first, other), _shared(first, other)
    missing = [i for i in first.problems if i not in other.problems]
    extra = [i for i in other.problems if i not in first.problems]
    if missing or extra:
        seen = f"{len(missing)} problems only in {first.name}, {len(extra)} only in {other.name}, {len(shared)} shared"
        yield finding(where, "different_problems", "error", seen, [*missing[:3], *extra])
    changed = [i for i in shared if _content(first, i) != _content(other, i)]
    if changed:
        seen = f"{share(len(changed), len(shared))} shared problems have another question or gold answer"
        yield finding(where, "changed_problems", "error", seen, changed)


def _content(scan: Scan, problem_id: str) -> tuple[str, str | None]:
    return scan.problems[problem_id].question, scan.problems[problem_id].answer


def prompt_mismatch(first: Scan, other: Scan) -> Iterator[Finding]:
    """Prompts that differ between the two runs."""
    where, shared = _pair(first, other), _shared(first, other)
    both = [i for i in shared if i in first.prompts and i in other.prompts]
    differ = [i for i in both if first.prompts[i] != other.prompts[i]]
    if differ:
        seen = f"{share(len(differ), len(both))} shared problems were prompted differently"
        yield finding(where, "prompt_mismatch", "error", seen, differ)
    elif shared and not both:
        yield finding(where, "prompt_unknown", "info", "prompts are not recorded in both sets")


def different_draws(first: Scan, other: Scan) -> Iterator[Finding]:
    """Different numbers of draws."""
    shared = _shared(first, other)
    differ = [i for i in shared if first.draws.get(i) != other.draws.get(i)]
    if differ:
        example = f"{differ[0]}: {first.draws.get(differ[0])} and {other.draws.get(differ[0])}"
        seen = f"{share(len(differ), len(shared))} shared problems have different numbers of draws ({example})"
        yield finding(_pair(first, other), "different_draws", "warning", seen, differ)


def different_sampling(first: Scan, other: Scan) -> Iterator[Finding]:
    """Different temperature, nucleus, token limit or thinking switch."""
    known = [(name, first.setting(name), other.setting(name)) for name in _SETTINGS]
    differ = [f"{name} {a} and {b}" for name, a, b in known if a is not None and b is not None and a != b]
    if differ:
        yield finding(_pair(first, other), "different_sampling", "error", "; ".join(differ))
    unknown = [name for name, a, b in known if (a is None) != (b is None)]
    if unknown:
        seen = f"recorded in one set only: {', '.join(unknown)}"
        yield finding(_pair(first, other), "sampling_unknown", "info", seen)


def same_completions(first: Scan, other: Scan) -> Iterator[Finding]:
    """The same completions in both: an adapter that was not loaded, a cache, a set compared with itself."""
    shared = _shared(first, other)
    pairs = [(a, b) for i in shared for a, b in zip(first.hashes.get(i, ()), other.hashes.get(i, ()), strict=False)]
    same = sum(a == b for a, b in pairs)
    if len(pairs) >= 10 and same > 0.5 * len(pairs):
        level = "error" if same > 0.9 * len(pairs) else "warning"
        seen = f"{share(same, len(pairs))} draws are the same text in both sets"
        yield finding(_pair(first, other), "same_completions", level, seen)


PAIR_CHECKS: tuple[Callable[[Scan, Scan], Iterator[Finding]], ...] = (
    same_problems, prompt_mismatch, different_draws, different_sampling, same_completions,
)  # fmt: skip
