"""Generalization: what training changed in against out of distribution.

A gap is a difference in differences: (in distribution, after − before) − (out of distribution, after − before). The
plain difference between two test sets only says that one of them is harder.

=====================================  =======================================================================
axis                                   function
=====================================  =======================================================================
longer, larger, another level          :func:`gaps_by_axis` on one pair of sets whose problems declare the axis
another family, or off-task forgetting :func:`generalization_gap` on two pairs of sets
trained on against held out            :func:`gaps_by_exposure` with the training problems (``leakage.py``)
perturbed twins                        :func:`twin_gap`, paired by twin
=====================================  =======================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_eval.metrics.base import NAN
from opsd_eval.metrics.leakage import HELD_OUT, TRAINED, exposure
from opsd_eval.names import unknown_name
from opsd_eval.records import Problem, read_problems

if TYPE_CHECKING:
    import pandas as pd

    from opsd_eval.measures import Measures
    from opsd_eval.stats import Difference


def generalization_gap(
    in_sets: tuple[Path | str, Path | str],
    out_sets: tuple[Path | str, Path | str],
    *,
    metric: str,
    level: float = 0.95,
) -> Difference:
    """Gap of one metric between two measured pairs of sets, each (before, after) over the same problems.

    Positive: training changed the metric more in distribution. Clusters above the problem are used where declared.
    With an off-task benchmark as ``out_sets`` this is forgetting, against what was gained on the task.
    """
    from opsd_eval.stats import difference_in_differences

    sides = [_measured(path, metric) for path in (in_sets[1], in_sets[0], out_sets[1], out_sets[0])]
    clusters = {pid: c for side in sides for pid, c in zip(side.problem_ids, side.clusters, strict=True)}
    labels = clusters if any(c is not None for c in clusters.values()) else None
    return difference_in_differences(*(side.scores(metric) for side in sides), clusters=labels, level=level)


def twin_gap(
    in_sets: tuple[Path | str, Path | str],
    twin_sets: tuple[Path | str, Path | str],
    *,
    metric: str,
    level: float = 0.95,
) -> Difference:
    """Gap between problems and their perturbed twins: the same plan, other numbers.

    A twin names its original in ``metadata["twin_of"]``; several twins of one original are averaged. Equation: mean
    over originals of (after − before) − (after − before of the twins), a paired t over originals (or their clusters),
    so what a pair shares drops out. Positive: training helped these very problems more than others just like them, the
    sign of learning by heart. Originals without a twin are dropped and counted.
    """
    from opsd_eval.stats import paired_difference

    before, after = (_measured(path, metric) for path in in_sets)
    own = _changes(before.scores(metric), after.scores(metric), in_sets)
    first, last = (_measured(path, metric).scores(metric) for path in twin_sets)
    theirs = _changes(first, last, twin_sets)
    by_original: dict[str, list[float]] = {}
    for problem_id, problem in read_problems(twin_sets[0]).items():
        original = str(problem.metadata.get("twin_of"))
        if original in own and theirs[problem_id] == theirs[problem_id]:
            by_original.setdefault(original, []).append(theirs[problem_id])
    if not by_original:
        raise ValueError(
            f"{twin_sets[0]}: no problem names one of {in_sets[0]} in metadata['twin_of']; give the set of twins second"
        )
    twins = {pid: sum(found) / len(found) if (found := by_original.get(pid)) else NAN for pid in own}
    labels = dict(zip(before.problem_ids, before.clusters, strict=True))
    return paired_difference(own, twins, clusters=labels, level=level)


def _measured(path: Path | str, metric: str) -> Measures:
    from opsd_eval.measures import read_measures

    side = read_measures(path)
    if metric not in side.values:
        raise ValueError(f"{path}: {unknown_name('measured metric', metric, list(side.values))}")
    return side


def _changes(
    before: Mapping[str, float], after: Mapping[str, float], names: tuple[Path | str, Path | str]
) -> dict[str, float]:
    from opsd_eval.stats_estimates import same_problems

    return {pid: after[pid] - before[pid] for pid in same_problems([str(n) for n in names], [before, after])}


def gaps_by_axis(
    before: Path | str, after: Path | str, *, axis: str, trained: Iterable[Any], metrics: Sequence[str],
    level: float = 0.95,
) -> pd.DataFrame:
    """One row a metric and untrained value of a declared axis: both changes and their gap.

    ``trained`` lists the axis values that training saw (compared as text); every other value is one way out of
    distribution. Problems that do not declare the axis are left out, and counted in ``n_undeclared``.
    """
    problems = read_problems(before)
    values = {pid: str(p.axes[axis]) for pid, p in problems.items() if axis in p.axes}
    inside = {str(value) for value in trained}
    if not values:
        raise ValueError(f"{before}: no problem declares the axis {axis!r}; declared are {_axes(problems.values())}")
    if not inside & set(values.values()):
        known = sorted(set(values.values()))
        raise ValueError(f"axis {axis!r} has the values {known}; none of them is among the trained {sorted(inside)}")
    return _gap_table((before, after), problems, (axis, values, inside), metrics=metrics, level=level)


def gaps_by_exposure(
    before: Path | str, after: Path | str, *, train: Iterable[Problem], metrics: Sequence[str], level: float = 0.95
) -> pd.DataFrame:
    """One row a metric: how much more it changed on problems found in the training data than on held-out ones.

    Columns as in :func:`gaps_by_axis`, the axis being ``exposure``. Recognised are copies and near copies of training
    problems (``leakage.py``); a set without any, or with nothing else, is an error.
    """
    problems = read_problems(before)
    values = exposure(train, problems.values())
    found = sum(value == TRAINED for value in values.values())
    if not 0 < found < len(values):
        raise ValueError(
            f"{before}: {found} of {len(values)} problems are in the training data; a gap needs some that are "
            f"({TRAINED}) and some that are not ({HELD_OUT})"
        )
    return _gap_table((before, after), problems, ("exposure", values, {TRAINED}), metrics=metrics, level=level)


def _gap_table(
    sets: tuple[Path | str, Path | str], problems: Mapping[str, Problem],
    groups: tuple[str, Mapping[str, str], set[str]], *, metrics: Sequence[str], level: float,
) -> pd.DataFrame:  # fmt: skip
    """Gaps between the problems labelled with an inside value and those of every other label."""
    import pandas as pd

    from opsd_eval.measures import read_measures
    from opsd_eval.stats import difference_in_differences

    axis, values, inside = groups
    first, last = (read_measures(path) for path in sets)
    clusters = {pid: p.cluster for pid, p in problems.items()}
    labels = clusters if any(clusters.values()) else None
    inner = [pid for pid, value in values.items() if value in inside]
    rows = []
    for metric in metrics:
        old, new = first.scores(metric), last.scores(metric)
        for value in sorted(set(values.values()) - inside):
            outer = [pid for pid, v in values.items() if v == value]
            gap = difference_in_differences(
                *({pid: table[pid] for pid in ids} for ids in (inner, outer) for table in (new, old)),
                clusters=labels, level=level,
            )  # fmt: skip
            rows.append({
                "metric": metric, "axis": axis, "trained": ",".join(sorted(inside)), "value": value,
                "change_in": _change(old, new, inner), "change_out": _change(old, new, outer), "gap": gap.value,
                "low": gap.low, "high": gap.high, "p_value": gap.p_value, "mde": gap.mde,
                "n_problems": gap.n_problems, "n_dropped": gap.n_dropped,
                "n_undeclared": len(problems) - len(values), "method": gap.method,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _change(old: Mapping[str, float], new: Mapping[str, float], ids: Sequence[str]) -> float:
    gaps = [new[pid] - old[pid] for pid in ids if new[pid] == new[pid] and old[pid] == old[pid]]
    return sum(gaps) / len(gaps) if gaps else NAN


def _axes(problems: Iterable[Problem]) -> list[str]:
    return sorted({axis for problem in problems for axis in problem.axes})
