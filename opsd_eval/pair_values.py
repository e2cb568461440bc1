"""Values of the metrics that look at two sets of one problem; those of large sets are kept beside the second set.

Reading both sets' completions is most of a comparison. A second comparison of files that have not changed reads
``against-….json`` instead, one file for each set that this one was compared with.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opsd_eval.measures import SERIAL_SAMPLES, file_state, problem_list
from opsd_eval.metrics import PAIR_METRICS
from opsd_eval.metrics.accuracy import graded_counts
from opsd_eval.metrics.base import PairMetric, forget_texts
from opsd_eval.records import read_json, write_json
from opsd_eval.sample_index import SampleIndex, read_block
from opsd_eval.workers import default_processes, run_tasks


@dataclass
class PairValues:
    """One entry a problem, in the order of the first set's problems.

    ``counts``: (n, c) of either side. ``values`` and ``nulls``: metric → numbers, the latter those of two equal models
    (NaN where unknown).
    """

    counts: list[tuple[int, ...]] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    nulls: dict[str, list[float]] = field(default_factory=dict)


def pair_values(a: Path, b: Path, metrics: Sequence[PairMetric], *, n_problems: int) -> PairValues:
    """The metrics of sets ``a`` and ``b``, which hold the same problems: read where they were kept, else computed."""
    kept = b / f"against-{hashlib.sha256(str(a.resolve()).encode('utf-8', 'surrogateescape')).hexdigest()[:12]}.json"
    files = [file_state(a), file_state(b)]
    found = _kept(kept, files, n_problems)
    if found is None or not {metric.name for metric in metrics} <= found.values.keys():
        left = SampleIndex(a)
        large = int(left.samples.counts().sum()) > SERIAL_SAMPLES
        found = _computed(left, SampleIndex(b), metrics, processes=default_processes() if large else 1)
        if large:
            with contextlib.suppress(OSError):  # a folder that cannot be written to can still be compared
                write_json(kept, {"files": files, "counts": found.counts, "values": found.values, "nulls": found.nulls})
    return found


def _kept(path: Path, files: Any, n_problems: int) -> PairValues | None:
    """What an earlier comparison of the same files kept; ``None`` without one, or when it is damaged."""
    try:
        held = read_json(path)
        if held["files"] != files:
            return None
        counts = [(*map(int, row),) for row in held["counts"]]
        columns = [{name: [math.nan if v is None else float(v) for v in held[part][name]] for name in held[part]}
                   for part in ("values", "nulls")]  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return None
    lengths = {len(counts), *(len(column) for part in columns for column in part.values())}
    fits = lengths == {n_problems} and columns[0].keys() == columns[1].keys() and all(map(_are_counts, counts))
    return PairValues(counts, *columns) if fits else None


def _are_counts(row: tuple[int, ...]) -> bool:
    return len(row) == 4 and 0 <= row[1] <= row[0] < 2**31 and 0 <= row[3] <= row[2] < 2**31


def _computed(
    left: SampleIndex, right: SampleIndex, metrics: Sequence[PairMetric], *, processes: int
) -> PairValues:
    from tqdm import tqdm

    names = [metric.name for metric in metrics]
    found = PairValues([], {name: [] for name in names}, {name: [] for name in names})
    numbers = {problem_id: number for number, problem_id in enumerate(right.problems)}
    ids = list(left.problems)
    tasks = (
        {"left": left.task(block), "right": right.task([numbers[ids[n]] for n in block]), "metrics": names}
        for block in left.blocks()
    )
    with tqdm(total=len(ids), unit="problem", desc="pairs", disable=None) as bar:
        for rows in run_tasks("opsd_eval.pair_values:pair_block", tasks, processes=processes):
            bar.update(len(rows))
            for count, values, nulls in rows:
                found.counts.append(tuple(count))
                for name, value, null in zip(names, values, nulls, strict=True):
                    found.values[name].append(value)
                    found.nulls[name].append(math.nan if null is None else null)
    return found


def pair_block(task: Mapping[str, Any]) -> list[tuple[tuple[int, ...], list[float], list[float | None]]]:
    """(counts, values, values of equal models) for a block of problems on both sides. Runs in a worker process."""
    problems = problem_list(task["left"]["folder"])
    metrics = [PAIR_METRICS[name] for name in task["metrics"]]
    rows = []
    for (number, base), (_, other) in zip(read_block(task["left"]), read_block(task["right"]), strict=True):
        problem = problems[number]
        rows.append((
            (*graded_counts(base), *graded_counts(other)),
            [metric(problem, base, other) for metric in metrics],
            [None if metric.null is None else float(metric.null(problem, base, other)) for metric in metrics],
        ))
    forget_texts()
    return rows
