"""From values per problem to estimates with intervals: the rows of ``estimates.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from opsd_eval.metrics import CORPUS_METRICS, expand_metrics
from opsd_eval.metrics.base import CorpusMetric, Metric, forget_texts
from opsd_eval.records import Problem, Sample
from opsd_eval.sample_index import SampleIndex, read_block

if TYPE_CHECKING:
    from opsd_eval.measures import Measures


def estimate_rows(
    measures: Measures, problems: Mapping[str, Problem], *, n: int, level: float
) -> list[dict[str, Any]]:
    """One row a metric: metric, estimate, low, high, method, n_problems, n_dropped, chance."""
    from opsd_eval.stats import mean_estimate

    clusters = None if all(c is None for c in measures.clusters) else measures.clusters
    rows = []
    for metric in expand_metrics(list(measures.values), n):
        estimate = mean_estimate(measures.values[metric.name], clusters=clusters, level=level)
        method = estimate.method
        if measures.words and metric.name.startswith("marker_rate"):
            method += f"; per 1,000 words in {measures.words} problems (token counts unknown)"
        if measures.encoder and "embeddings" in metric.needs:
            method += f"; encoder {measures.encoder['name']}, threshold {measures.encoder['threshold']:.3f}"
        rows.append({
            "metric": metric.name, "estimate": estimate.value, "low": estimate.low, "high": estimate.high,
            "method": method, "n_problems": estimate.n_problems, "n_dropped": estimate.n_dropped,
            "chance": _chance(metric, problems, n),
        })  # fmt: skip
    return rows


def corpus_rows(index: SampleIndex, names: Sequence[str], *, level: float) -> list[dict[str, Any]]:
    """Rows of metrics of the whole set, from the problems that they read (a bounded number of them)."""
    from opsd_eval.metrics.distinguishability import chosen_problems
    from opsd_eval.stats import bootstrap_estimate, mean_estimate

    if not names:
        return []
    problems = list(index.problems.values())
    chosen = chosen_problems(len(problems))
    read = [problems[number] for number in chosen]
    groups = [samples for number in chosen for _, samples in read_block(index.task([number]))]
    clusters = None if all(p.cluster is None for p in read) else [p.cluster for p in read]
    rows = []
    for name in names:
        metric = CORPUS_METRICS[name]
        if metric.by_problem is not None:
            estimate = mean_estimate(metric.by_problem(read, groups), clusters=clusters, level=level)
        else:
            estimate = bootstrap_estimate(
                list(zip(read, groups, strict=True)), statistic=partial(_on_pairs, metric), n_resamples=1000,
                clusters=clusters, level=level,
            )  # fmt: skip
        rows.append({
            "metric": name, "estimate": estimate.value, "low": estimate.low, "high": estimate.high,
            "method": f"{estimate.method}; {len(read)} of {len(problems)} problems", "n_problems": estimate.n_problems,
            "n_dropped": estimate.n_dropped, "chance": metric.chance(estimate.n_problems) if metric.chance else None,
        })  # fmt: skip
    forget_texts()
    return rows


def _on_pairs(metric: CorpusMetric, pairs: Sequence[tuple[Problem, Sequence[Sample]]]) -> float:
    return metric.compute([problem for problem, _ in pairs], [samples for _, samples in pairs])


def _chance(metric: Metric, problems: Mapping[str, Problem], n: int) -> float | None:
    """Mean chance level over the problems the metric applies to; ``None`` where any of them has none."""
    if metric.chance is None:
        return None
    total, count = 0.0, 0
    for problem in problems.values():
        if metric.applies(problem):
            value = metric.chance(problem, n)
            if value != value:
                return None
            total += value
            count += 1
    return total / count if count else None
