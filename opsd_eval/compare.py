"""Compare sample sets problem by problem: the change from the first to the second, and what a third recovers.

Sets must hold the same problems; a problem without a value on either side is dropped and counted.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opsd_eval import compare_gaps
from opsd_eval.measures import Measures, measure_set, read_measures
from opsd_eval.metrics import FAMILIES, METRICS, PAIR_METRICS, SET_PAIR_METRICS, expand_metrics, find_metric
from opsd_eval.metrics.base import PairMetric, SetPairMetric
from opsd_eval.names import unknown_name
from opsd_eval.pair_values import pair_values
from opsd_eval.records import dumps, read_problems

if TYPE_CHECKING:
    import pandas as pd

    from opsd_eval.stats import Estimate


def compare_sets(
    a: Path | str,
    b: Path | str,
    *,
    metrics: Iterable[str] | None = None,
    level: float = 0.95,
    margin: float | None = None,
) -> pd.DataFrame:
    """One row a metric: both means, the paired difference b − a with interval, p-value, MDE, verdict.

    Sets over different problems are refused. ``margin``: a difference whose interval lies inside ±margin is
    ``preserved``. Pair metrics (``support_loss`` and others) have no means of their own; their row's ``difference``
    is their value. Missing measures are made first; of sets with different numbers of draws only what both have is
    compared. P-values are adjusted by Holm over the metrics named, by Benjamini-Hochberg when none is named
    (exploratory); ``adjustment`` says which.
    """
    import pandas as pd

    from opsd_eval.stats import benjamini_hochberg, holm

    metrics = None if metrics is None else list(metrics)
    plain, pairs = _split_names(metrics)
    left, right = _measured(Path(a), plain), _measured(Path(b), plain)
    _check_same_problems(left, right, (str(a), str(b)))
    rows = [_paired_row(metric, left, right, level=level) for metric in _shared(left, right, plain)]
    rows += _pair_rows(Path(a), Path(b), pairs, left, level=level)
    known = [at for at, row in enumerate(rows) if not math.isnan(row["p_value"])]
    adjust, name = (benjamini_hochberg, "benjamini-hochberg") if metrics is None else (holm, "holm")
    for at, adjusted in zip(known, adjust([rows[i]["p_value"] for i in known]).tolist(), strict=True):
        rows[at] |= {"p_adjusted": adjusted, "adjustment": name}
    for row in rows:
        row["verdict"] = _verdict(row, margin)
    return pd.DataFrame([{key: value for key, value in row.items() if key != "found"} for row in rows])


def recovered(
    base: Path | str, standard: Path | str, purified: Path | str, *, metrics: Iterable[str] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """(purified − standard) / (base − standard) for each metric, undefined where standard lost nothing certain."""
    import pandas as pd

    from opsd_eval.stats import recovered_fraction

    plain, _ = _split_names(metrics)
    sets = [_measured(Path(path), plain) for path in (base, standard, purified)]
    for other, name in zip(sets[1:], (standard, purified), strict=True):
        _check_same_problems(sets[0], other, (str(base), str(name)))
    rows = []
    for metric in _shared(sets[0], sets[1], plain):
        if metric not in sets[2].values:
            continue
        found = recovered_fraction(*(one.scores(metric) for one in sets), clusters=_clusters(sets[0]), level=level)
        rows.append({
            "metric": metric, "recovered_fraction": found.value, "low": found.low, "high": found.high,
            "n_problems": found.n_problems, "n_dropped": found.n_dropped, "method": found.method,
        })  # fmt: skip
    return pd.DataFrame(rows)


# --- metrics of one set -----------------------------------------------------------------------------------


def _split_names(metrics: Iterable[str] | None) -> tuple[list[str] | None, list[PairMetric | SetPairMetric]]:
    """(names of metrics of one set, pair metrics); ``None`` stands for the defaults of both kinds."""
    both = {**PAIR_METRICS, **SET_PAIR_METRICS}
    if metrics is None:
        return None, [metric for metric in both.values() if metric.default]
    names = list(metrics)
    pairs = [both[name] for name in names if name in both]
    plain = [name for name in names if name not in both]
    for name in plain:
        try:
            expand_metrics([name], 1)
        except ValueError:
            raise ValueError(unknown_name("metric", name, [*FAMILIES, *METRICS, *both])) from None
    return plain, pairs


def _measured(folder: Path, names: list[str] | None) -> Measures:
    """The set's measures, made now where they are missing or older than its files; none when none is named."""
    if names is not None and not names:
        problems = read_problems(folder).values()
        ids, clusters = [p.problem_id for p in problems], [p.cluster for p in problems]
        return Measures(ids, clusters, np.zeros(len(ids), dtype=int))
    measure_set(folder, metrics=names)
    return read_measures(folder)


def _check_same_problems(a: Measures, b: Measures, names: tuple[str, str]) -> None:
    from opsd_eval.stats_estimates import same_problems

    same_problems(names, (dict.fromkeys(a.problem_ids, 0.0), dict.fromkeys(b.problem_ids, 0.0)))


def _shared(a: Measures, b: Measures, names: list[str] | None) -> list[str]:
    shared = [name for name in a.values if name in b.values]
    if a.n.max(initial=0) != b.n.max(initial=0):
        shared = [name for name in shared if not find_metric(name).equal_n]
    if names is None:
        return shared
    n = int(max(a.n.max(initial=0), b.n.max(initial=0)))
    wanted = {metric.name for metric in expand_metrics(names, n)}
    return [name for name in shared if name in wanted]


def _clusters(measures: Measures) -> dict[str, str | None] | None:
    if all(cluster is None for cluster in measures.clusters):
        return None
    return dict(zip(measures.problem_ids, measures.clusters, strict=True))


def _paired_row(metric: str, a: Measures, b: Measures, *, level: float) -> dict[str, Any]:
    from opsd_eval.stats import paired_difference

    found = paired_difference(b.scores(metric), a.scores(metric), clusters=_clusters(a), level=level)
    return {
        "metric": metric, "a": _mean(a.values[metric]), "b": _mean(b.values[metric]), "difference": found.value,
        "low": found.low, "high": found.high, "p_value": found.p_value, "p_adjusted": math.nan, "adjustment": None,
        "mde": found.mde, "n_problems": found.n_problems, "n_dropped": found.n_dropped,
        "better": find_metric(metric).better, "method": found.method, "chance": None, "found": found,
    }  # fmt: skip


def _mean(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else math.nan


def _verdict(row: Mapping[str, Any], margin: float | None) -> str:
    from opsd_eval.stats import verdict

    if row["found"] is None:
        return "described"
    adjusted = None if math.isnan(row["p_adjusted"]) else row["p_adjusted"]
    return verdict(row["found"], better=row["better"], margin=margin, p_adjusted=adjusted)


# --- metrics of two sets ----------------------------------------------------------------------------------


def _pair_rows(
    a: Path, b: Path, metrics: Sequence[PairMetric | SetPairMetric], left: Measures, *, level: float
) -> list[dict[str, Any]]:
    """Rows of the metrics that look at both sides of a problem."""
    if not metrics:
        return []
    from opsd_eval.stats import mean_estimate

    ours, clusters = [m for m in metrics if isinstance(m, PairMetric)], _clusters(left)
    pairs = pair_values(a, b, ours, n_problems=len(left.problem_ids))
    labels = None if clusters is None else list(clusters.values())
    rows = []
    for metric in metrics:
        against = None  # what the verdict is about: the value less that of two equal models
        if isinstance(metric, PairMetric):
            value = np.array(pairs.values[metric.name])
            found = mean_estimate(value, clusters=labels, level=level)
            if metric.null is not None:
                null = np.array(pairs.nulls[metric.name])
                against = mean_estimate(value - null, clusters=labels, level=level)
        else:
            found, null = _set_estimate(metric, pairs.counts, labels, level), np.array([])
        rows.append({
            "metric": metric.name, "a": math.nan, "b": math.nan, "difference": found.value, "low": found.low,
            "high": found.high, "p_value": math.nan, "p_adjusted": math.nan, "adjustment": None, "mde": math.nan,
            "n_problems": found.n_problems, "n_dropped": found.n_dropped, "better": metric.better,
            "method": found.method, "chance": None if against is None else _mean(null), "found": against,
        })  # fmt: skip
    return rows


def _set_estimate(
    metric: SetPairMetric, counts: Sequence[tuple[int, ...]], labels: Sequence[str | None] | None,
    level: float,
) -> Estimate:
    """Bootstrap over problems on the scale 1/value, where "never" (infinity) is 0; then turned back."""
    from opsd_eval.stats import bootstrap_estimate

    def inverse(rows: np.ndarray) -> float:
        return 1.0 / metric.compute(rows)

    found = bootstrap_estimate(np.array(counts, float), statistic=inverse, n_resamples=1000, clusters=labels,
                               level=level)  # fmt: skip
    value, low, high = (math.inf if x == 0 else 1.0 / x for x in (found.value, found.high, found.low))
    return replace(found, value=value, low=low, high=high)


# --- command line -----------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-eval compare``."""
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET",
                        help="two sample sets over the same problems (base, then other); a third adds the share of "
                        "the second's loss that it recovers")  # fmt: skip
    parser.add_argument("--metric", action="append", metavar="NAME", help="metric or family; repeat for several "
                        "(default: what both sets have, and the pair metrics)")  # fmt: skip
    parser.add_argument("--margin", type=float, default=None, help="differences inside ±MARGIN count as preserved")
    compare_gaps.add_arguments(parser)
    parser.add_argument("--level", type=float, default=0.95, help="level of the intervals (default 0.95)")
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]} and nothing else')


def run(args: argparse.Namespace) -> int:
    """Print the paired differences (and recovered fractions, given three sets)."""
    from opsd_eval.grading import grade_set

    if len(args.sets) not in (2, 3):
        raise ValueError(f"compare takes two or three sample sets, got {len(args.sets)}")
    for folder in (*args.sets, *(args.against or ())):
        grade_set(folder)
    pairs = [(args.sets[0], other) for other in args.sets[1:]] + ([tuple(args.sets[1:])] if args.sets[2:] else [])
    rows = []
    for a, b in pairs:
        table = compare_sets(a, b, metrics=args.metric, level=args.level, margin=args.margin)
        rows += [{"contrast": f"{b} - {a}", **row} for row in table.to_dict("records")]
    extra = recovered(*args.sets, metrics=args.metric, level=args.level) if len(args.sets) == 3 else None
    extra_rows = [] if extra is None else [{"contrast": "recovered_fraction", **r} for r in extra.to_dict("records")]
    extra_rows += compare_gaps.gap_rows(args.sets, pairs, args, lambda a, b: _shared_names(a, b, args.metric))
    if args.json:
        print(dumps({"rows": rows + extra_rows}))
    else:
        print(format_rows(rows))
        for row in extra_rows:
            value = row.get("recovered_fraction", row.get("gap", math.nan))
            where = f" ({row['axis']} {row['trained']} against {row['value']})" if "axis" in row else ""
            print(f"{row['contrast']}: {row['metric']}{where} {value:.3g} [{row['low']:.3g}, {row['high']:.3g}]")
    return 0


def _shared_names(a: Path, b: Path, metrics: Iterable[str] | None) -> list[str]:
    """The metrics of one set that both sides have, measured first where need be."""
    plain, _ = _split_names(metrics)
    return _shared(_measured(a, plain), _measured(b, plain), plain)


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Differences as an aligned text table, one block a contrast."""
    lines, contrast = [], None
    for row in rows:
        if row["contrast"] != contrast:
            contrast = row["contrast"]
            lines += ["", str(contrast), f"{'metric':28} {'a':>9} {'b':>9} {'b - a':>10} {'interval':>22} "
                      f"{'p (adj.)':>9} {'MDE':>8} {'used':>6}  verdict"]  # fmt: skip
        if math.isnan(row["difference"]):
            lines.append(f"{row['metric']:28} {'undefined':>30} {'':41} {row['n_problems']:6}")
            continue
        interval = f"[{row['low']:+.4g}, {row['high']:+.4g}]"
        lines.append(
            f"{row['metric']:28} {row['a']:9.4g} {row['b']:9.4g} {row['difference']:+10.4g} {interval:>22} "
            f"{row['p_adjusted']:9.3g} {row['mde']:8.3g} {row['n_problems']:6}  {row['verdict']}"
        )
    return "\n".join(lines)
