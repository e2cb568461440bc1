"""The audit's checks of one sample set: each takes a :class:`Scan` and gives findings."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from opsd_eval.audit import Finding
from opsd_eval.audit_advice import finding, share
from opsd_eval.audit_integrity import changed_files, foreign_samples
from opsd_eval.audit_scan import Scan
from opsd_eval.records import read_json

_CHARS_PER_TOKEN = 0.7
_LONG_GOLD_WORDS = 25


def empty_set(scan: Scan) -> Iterator[Finding]:
    """A set without problems or samples says nothing."""
    if not scan.n_samples:
        yield finding(scan.name, "empty_set", "error", f"no {'sample' if scan.problems else 'problem'} in the set")


def identical_draws(scan: Scan) -> Iterator[Finding]:
    """The same completions again and again: a constant seed, or a true collapse."""
    total = sum(n for n in scan.draws.values() if n > 1)
    if not scan.copies:
        return
    seen = f"{share(scan.copies, total)} draws repeat an earlier draw of their problem letter by letter"
    if scan.setting("temperature") in (0, 0.0):
        yield finding(scan.name, "greedy_draws", "info", f"{seen}, at temperature 0")
        return
    pattern, count = max(((p, c) for p, c in scan.patterns.items() if len(set(p)) < len(p)), key=lambda pc: pc[1])
    if count >= max(2, 0.5 * scan.compared) or (count == scan.compared and len(scan.problems) == 1):
        seen += f"; in {share(count, scan.compared)} problems in one pattern: {describe(pattern)}"
        yield finding(scan.name, "identical_draws", "error", seen, scan.repeating)
    elif scan.long_copies or scan.copies > 0.05 * total:
        seen += f", {scan.long_copies} of them 200 characters or longer"
        level = "warning" if scan.long_copies else "info"
        yield finding(scan.name, "repeated_draws", level, seen, scan.long_repeating or scan.repeating)


def describe(pattern: tuple[int, ...]) -> str:
    """A repetition pattern in words: (0, 1, 0, 1) is ``draw 2 = draw 0, draw 3 = draw 1``."""
    if len(set(pattern)) == 1:
        return f"all {len(pattern)} draws are the same"
    pairs = [f"draw {draw} = draw {first}" for draw, first in enumerate(pattern) if draw != first]
    return ", ".join(pairs[:4]) + (f" and {len(pairs) - 4} more" if len(pairs) > 4 else "")


def copied_between_problems(scan: Scan) -> Iterator[Finding]:
    """One long completion under several questions."""
    if scan.cross_copies:
        level = "warning" if scan.cross_copies > 0.01 * scan.n_samples else "info"
        seen = f"{share(scan.cross_copies, scan.n_samples)} completions of 200 characters or more also stand under "
        yield finding(scan.name, "copied_between_problems", level, seen + "another question", scan.cross_examples)


def constant_seed(scan: Scan) -> Iterator[Finding]:
    """One recorded seed for several draws of a problem, though the texts differ."""
    if len(scan.same_seed) > sum(c for p, c in scan.patterns.items() if len(set(p)) == 1):
        seen = f"in {share(len(scan.same_seed), scan.compared)} problems all draws record the same seed"
        yield finding(scan.name, "constant_seed", "warning", seen, scan.same_seed)


def unequal_draws(scan: Scan) -> Iterator[Finding]:
    """Problems with different numbers of draws, or none."""
    without = [i for i, n in scan.draws.items() if n == 0]
    if without and scan.n_samples:
        seen = f"{share(len(without), len(scan.draws))} problems have no sample"
        yield finding(scan.name, "missing_samples", "error", seen, without)
    counts = Counter(n for n in scan.draws.values() if n)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        seen = ", ".join(f"{n} draws: {c} problems" for n, c in sorted(counts.items())[:8])
        odd = [i for i, n in scan.draws.items() if n not in (0, usual)]
        yield finding(scan.name, "unequal_draws", "warning", seen, odd)
    if scan.gaps:
        seen = f"in {share(len(scan.gaps), len(scan.draws))} problems the draws are not numbered 0, 1, 2, …"
        yield finding(scan.name, "draw_numbers", "info", seen, scan.gaps)


def duplicated_problems(scan: Scan) -> Iterator[Finding]:
    """One question under several ids, whatever its case and white space."""
    by_question: dict[str, list[str]] = defaultdict(list)
    exactly: dict[str, list[str]] = defaultdict(list)
    for problem in scan.problems.values():
        question = " ".join(problem.question.split())
        by_question[question.casefold()].append(problem.problem_id)
        exactly[question].append(problem.problem_id)
    groups = [ids for ids in by_question.values() if len(ids) > 1]
    if groups:
        seen = f"{share(sum(len(i) - 1 for i in groups), len(scan.problems))} problems repeat the question of another"
        yield finding(scan.name, "duplicated_problems", "warning", seen, [" = ".join(ids[:3]) for ids in groups])
    clash = [ids for ids in exactly.values() if len({scan.problems[i].answer for i in ids}) > 1]
    if clash:
        seen = f"{len(clash)} questions have different gold answers under different ids"
        yield finding(scan.name, "contradicting_answers", "error", seen, [" / ".join(ids[:3]) for ids in clash])


def missing_gold(scan: Scan) -> Iterator[Finding]:
    """Problems that nothing can be graded against."""
    without = [p.problem_id for p in scan.problems.values() if not (p.answer or "").strip()]
    if without:
        level = "error" if len(without) == len(scan.problems) else "warning"
        seen = f"{share(len(without), len(scan.problems))} problems have no gold answer"
        yield finding(scan.name, "missing_gold", level, seen, without)
    long = [p.problem_id for p in scan.problems.values() if len((p.answer or "").split()) > _LONG_GOLD_WORDS]
    if long:
        seen = f"{share(len(long), len(scan.problems))} gold answers have more than {_LONG_GOLD_WORDS} words"
        yield finding(scan.name, "gold_is_text", "warning", seen, long)


def empty_completions(scan: Scan) -> Iterator[Finding]:
    """Completions without text."""
    empty = sum(scan.empty.values())
    if empty:
        level = "error" if empty > 0.2 * scan.n_samples else "warning"
        seen = f"{share(empty, scan.n_samples)} completions are empty or white space"
        yield finding(scan.name, "empty_completions", level, seen, [i for i, n in scan.empty.items() if n])


def truncated(scan: Scan) -> Iterator[Finding]:
    """Completions that ended at the token limit, or of which nobody knows."""
    cut, unknown, n = scan.finish["length"], scan.finish[None] - scan.below_limit, scan.n_samples
    if cut > 0.01 * n:
        level = "error" if cut > 0.2 * n else "warning" if cut > 0.05 * n else "info"
        yield finding(scan.name, "truncated", level, f"{share(cut, n)} completions ended at the token limit")
    if unknown:
        signs = [f"{scan.at_limit} of them have as many tokens as the limit"] if scan.at_limit else []
        if scan.texts.unclosed:
            signs.append(f"{share(scan.texts.unclosed, scan.texts.n)} of those read have an unclosed <think>")
        seen = "; ".join([f"{share(unknown, n)} completions have no finish reason", *signs])
        yield finding(scan.name, "finish_unknown", "warning" if signs else "info", seen)


def stripped_reasoning(scan: Scan) -> Iterator[Finding]:
    """Reasoning that the harness removed before logging."""
    ratios = scan.texts.chars_per_token
    ratio = statistics.median(ratios) if len(ratios) >= 10 else None
    if "think_end_token" in str({**scan.run.config, **scan.run.model}):
        yield finding(scan.name, "stripped_reasoning", "error", "the run's settings name think_end_token")
    elif ratio is not None and ratio < _CHARS_PER_TOKEN:
        seen = f"the text has a median of {ratio:.2f} characters for each token that was generated"
        yield finding(scan.name, "stripped_reasoning", "error", seen)


def language_and_loops(scan: Scan) -> Iterator[Finding]:
    """Completions in another language than their question, and loops."""
    texts = scan.texts
    if texts.off_language > 0.02 * texts.n:
        listed = ", ".join(f"{name} {count / texts.n:.0%}" for name, count in texts.languages.most_common(4))
        seen = f"{share(texts.off_language, texts.n)} completions read are in another language than their question"
        yield finding(scan.name, "off_language", "warning", f"{seen} ({listed})")
    if texts.loops > 0.02 * texts.n:
        seen = f"{share(texts.loops, texts.n)} completions read end in a loop"
        yield finding(scan.name, "loops", "warning", seen)


def extractability(scan: Scan) -> Iterator[Finding]:
    """Completions without a boxed answer."""
    texts = scan.texts
    if texts.no_strict > 0.1 * texts.n:
        level = "error" if texts.no_strict > 0.9 * texts.n else "warning"
        seen = f"{share(texts.no_strict, texts.n)} completions read have no boxed answer (nor GSM8K's ####); "
        seen += f"{texts.relaxed_only} of them hold another recognisable answer"
        yield finding(scan.name, "extractability", level, seen)


def prompts(scan: Scan) -> Iterator[Finding]:
    """Prompts that differ between draws of a problem, or are one for several problems."""
    if scan.varying_prompts:
        seen = f"{share(len(scan.varying_prompts), len(scan.draws))} problems have draws under different prompts"
        yield finding(scan.name, "prompt_varies", "error", seen, scan.varying_prompts)
    owners: dict[str, list[str]] = defaultdict(list)
    for problem_id, prompt in scan.prompts.items():
        owners[prompt].append(problem_id)
    shared = [ids for ids in owners.values() if len({scan.problems[i].question for i in ids}) > 1]
    if shared:
        seen = f"{sum(map(len, shared))} problems share a prompt with another question"
        yield finding(scan.name, "prompt_shared", "error", seen, shared[0])


def unfinished(scan: Scan) -> Iterator[Finding]:
    """A run or an ingest that did not reach its end, or that left something out."""
    status = scan.run.config.get("status")
    if status not in (None, "success"):
        yield finding(scan.name, "unfinished", "error", f"the log says its run is {status!r}")
    wanted = scan.setting("n")
    short = [i for i, n in scan.draws.items() if isinstance(wanted, int) and 0 < n < wanted]
    if short:
        seen = f"{share(len(short), len(scan.draws))} problems have fewer than the n = {wanted} draws asked for"
        yield finding(scan.name, "unfinished", "error", seen, short)
    if scan.run.kind == "ingest":
        yield from _ingest(scan)


def _ingest(scan: Scan) -> Iterator[Finding]:
    path = scan.folder / "ingest.json"
    if not path.exists():
        yield finding(scan.name, "unfinished", "error", "ingest.json is missing: the ingest did not reach its end")
        return
    report = read_json(path)
    if report.get("n_malformed"):
        seen = f"{report['n_malformed']} entries of the log were left out"
        yield finding(scan.name, "malformed", "warning", seen, [str(m) for m in report.get("malformed", [])][:3])
    for note, count in (report.get("notes") or {}).items():
        yield finding(scan.name, "ingest_note", "info", f"{note} ({count})")


CHECKS: tuple[Callable[[Scan], Iterator[Finding]], ...] = (
    empty_set, unfinished, identical_draws, copied_between_problems, constant_seed, unequal_draws, duplicated_problems,
    missing_gold, empty_completions, truncated, stripped_reasoning, language_and_loops, extractability, prompts,
    foreign_samples, changed_files,
)  # fmt: skip
