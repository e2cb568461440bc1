"""Our metrics inside the lm-evaluation-harness: the functions that the YAML files of ``lm_eval_tasks/`` name.

The tasks are a thin adapter: each document is one :class:`~opsd_eval.records.Problem`, ``repeats: K`` gives K draws,
and ``process_results`` grades and measures them with the functions that ``opsd-eval grade`` and ``measure`` call, so
that harness numbers and offline numbers are the same numbers. Written against lm_eval 0.4.13. What the adapter has
to work around there, and does:

- without a filter that keeps lists, K-1 of the K draws are dropped before scoring (``keep_all``);
- a constant request seed makes all K draws of an API server identical (``seed: null``);
- an empty ``until`` in the YAML keeps the default stop string, a blank line, from cutting every chain of thought;
- the standard error of a custom aggregation is printed as N/A unless a metric named ``<name>_stderr`` follows it;
- data-parallel ranks are padded by repeating a request, which gives one problem 2K draws (``keep_all`` cuts to K).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from opsd_eval.records import Problem, Sample

#: Metrics printed by the tasks, and those printed once for every k (resolved for K draws by ``task_metrics``).
METRIC_NAMES = (
    "avg@k", "avg_relaxed@k", "pass@k", "maj@k", "marker_rate", "loop_rate", "no_answer_rate", "distinct_answers",
    "distinct_paths", "step_validity", "compression_ratio",
)  # fmt: skip


def load(benchmark: str | None = None, problems: int = 200, **_: Any) -> dict[str, Any]:
    """The dataset of a task: the harness passes the fields of ``metadata`` (and of ``--metadata``) as keywords.

    ``benchmark`` names it, ``problems`` limits it: ``--metadata '{"problems": 50}'``. Other fields, such as the model
    arguments that the harness mixes in, are left alone.
    """
    from datasets import Dataset

    from opsd_eval.benchmarks import load_benchmark

    if not benchmark:
        raise ValueError("the task's metadata needs a benchmark, for instance benchmark: testbed.hunch_r10.id")
    found = load_benchmark(benchmark, limit=int(problems))
    return {"test": Dataset.from_list([document(problem) for problem in found])}


def document(problem: Problem) -> dict[str, Any]:
    """A problem as a harness document: its question and answer as text, the whole record as one JSON field."""
    return {
        "problem_id": problem.problem_id, "question": problem.question, "answer": problem.answer or "",
        "problem": json.dumps(asdict(problem)),
    }  # fmt: skip


def problem_of(doc: Mapping[str, Any]) -> Problem:
    """The problem that :func:`document` was made from."""
    return Problem(**json.loads(doc["problem"]))


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The student's user message; with ``--apply_chat_template`` the token ids are those of training and sampling."""
    from opsd_eval.prompts import question_text

    return question_text(problem_of(doc))


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """The gold answer as text (empty where the problem has none)."""
    return str(doc["answer"])


def keep_all(resps: Iterable[Sequence[str]], docs: Any) -> list[list[str]]:
    """Filter that keeps every draw, cut to the smallest number any problem has (see the module's last point)."""
    rows = [list(row) for row in resps]
    k = min((len(row) for row in rows), default=0)
    return [row[:k] for row in rows]


def process_results(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Grade and measure the K draws of one problem; every value is also given as ``<name>_stderr`` for its error bar.

    Raises ``ValueError`` when the filter handed over one string instead of a list: then K-1 draws would be lost.
    """
    texts = results[0] if results and isinstance(results[0], list) else None
    if texts is None:
        raise ValueError(
            "process_results got one response instead of a list of draws: keep the task's filter_list "
            "(function: custom, filter_fn: opsd_eval.harness.keep_all), else all draws but the first are dropped"
        )
    problem = problem_of(doc)
    values = measure_texts(problem, texts)
    return {**values, **{f"{name}_stderr": value for name, value in values.items()}}


def measure_texts(problem: Problem, texts: Sequence[str]) -> dict[str, float]:
    """The tasks' metrics of one problem's completions, graded on the spot."""
    from opsd_eval.grading import grade_sample

    samples = [
        grade_sample(problem, Sample(problem_id=problem.problem_id, draw=draw, text=text))
        for draw, text in enumerate(texts)
    ]
    return {metric.name: metric(problem, samples) for metric in task_metrics(len(samples))}


def task_metrics(n: int) -> list[Any]:
    """The metrics of :data:`METRIC_NAMES` for n draws (families give one metric for k = 1, 2, 4, … n)."""
    from opsd_eval.metrics import expand_metrics

    return expand_metrics(METRIC_NAMES, n)


def mean_over_problems(values: Sequence[float]) -> float:
    """Aggregation: the mean over the problems where the metric is defined, NaN if there are none."""
    from opsd_eval.stats import mean_estimate

    return mean_estimate(values).value


def standard_error(values: Sequence[float]) -> float:
    """Aggregation: the problem-level standard error of that mean, s/sqrt(N) over the problems used (2411.00640)."""
    kept = [value for value in values if value == value]
    if len(kept) < 2:
        return math.nan
    mean = math.fsum(kept) / len(kept)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in kept) / (len(kept) * (len(kept) - 1)))
