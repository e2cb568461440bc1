"""The scorecard: levels and paired contrasts of every metric, with intervals and verdicts fixed in advance.

Input is the long table of :func:`opsd_eval.tables.problem_values`, already cut to the checkpoint to report.
Two kinds of statement are kept apart (``scope``): over *these checkpoints* the interval covers the choice of
problems only; over the *method* it crosses seeds and problems, and needs at least three base seeds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import stdev
from typing import Any

from opsd_eval import stats
from opsd_eval.scorecard_text import GAP
from opsd_eval.tables import Frame

LEVEL = "level"
NOTE = "statement about these checkpoints: a verdict on the method needs at least 3 base seeds"
KEYS = (
    "contrast", "arm", "world", "split", "metric", "estimate", "low", "high", "n_problems", "n_dropped", "n_seeds",
    "seed_sd", "chance", "difference", "difference_low", "difference_high", "p_value", "p_adjusted", "margin", "mde",
    "verdict", "better", "primary", "scope", "method", "note",
)  # fmt: skip

SeedKey = tuple[Hashable, Hashable]
Values = Mapping[SeedKey, Mapping[str, float]]


@dataclass(frozen=True)
class ScorecardSettings:
    """What a scorecard is about; everything that could be chosen after looking is fixed here before.

    ``contrasts`` pairs arms as (arm, compared with). ``margins`` holds, per metric, the difference that is too
    small to matter. ``directions`` says per metric ``higher``, ``lower`` or ``neither``; ``chances`` its value
    under guessing, keyed by (world, split, metric). ``gap_metrics`` get a generalization-gap row from
    ``in_distribution`` to each split of ``out_of_distribution``.
    """

    arms: Sequence[str]
    contrasts: Sequence[tuple[str, str]]
    primary: Sequence[str]
    margins: Mapping[str, float] = field(default_factory=dict)
    directions: Mapping[str, str] = field(default_factory=dict)
    chances: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    gap_metrics: Sequence[str] = ()
    in_distribution: str = "id"
    out_of_distribution: Sequence[str] = ()
    clusters: Mapping[str, str | None] | None = None
    level: float = 0.95


def default_contrasts(arms: Sequence[str], baseline: str = "base") -> list[tuple[str, str]]:
    """Every arm against the baseline, then every later arm against ``standard`` where there is one."""
    trained = [arm for arm in arms if arm != baseline]
    against_standard = [(arm, "standard") for arm in trained if "standard" in trained and arm != "standard"]
    return [*((arm, baseline) for arm in trained if baseline in arms), *against_standard]


def build_scorecard(values: Frame, settings: ScorecardSettings) -> list[dict[str, Any]]:
    """All rows: ``level`` per arm, each contrast, and the generalization gaps; Holm over the primary metrics.

    A metric that is undefined for every problem of every arm of a (world, split) is inapplicable and has no row.
    """
    rows: list[dict[str, Any]] = []
    cells: dict[tuple[str, str, str], dict[str, Values]] = {}
    for (world, split, metric), part in values.groupby(["world", "split", "metric"], sort=False):
        if part["value"].notna().any():
            cells[world, split, metric] = {arm: by_seed(t) for arm, t in part.groupby("arm") if arm in settings.arms}
    for (world, split, metric), arms in cells.items():
        place = {"world": world, "split": split, "metric": metric}
        rows += [_level_row(arm, arms[arm], place, settings) for arm in settings.arms if arm in arms]
        rows += [_contrast_row(pair, arms, place, settings) for pair in settings.contrasts if _has(arms, pair)]
    rows += _gap_rows(cells, settings)
    _adjust(rows)
    order = {name: at for at, name in enumerate([LEVEL, *(f"{a}-{b}" for a, b in settings.contrasts)])}
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    inside = settings.in_distribution
    return sorted(rows, key=lambda r: (worlds.index(r["world"]), r["split"] != inside, order[r["contrast"]]))


def _has(arms: Mapping[str, Values], pair: tuple[str, str]) -> bool:
    return pair[0] in arms and pair[1] in arms


def by_seed(table: Frame) -> dict[SeedKey, dict[str, float]]:
    """One arm's values of one metric as {(base seed, training seed): {problem_id: value}}."""
    found: dict[tuple[Any, Any], dict[str, float]] = {}
    columns = (table[name].tolist() for name in ("base_seed", "train_seed", "problem_id", "value"))
    for base_seed, train_seed, problem, value in zip(*columns, strict=True):
        by_problem = found.setdefault((_seed(base_seed), _seed(train_seed)), {})
        if problem in by_problem:
            raise ValueError(
                f"arm {table['arm'].iloc[0]!r} has several sample sets for one seed; keep one checkpoint a run"
            )
        by_problem[problem] = value
    return dict(sorted(found.items(), key=lambda item: [(seed is None, seed or 0) for seed in item[0]]))


def _seed(value: Any) -> int | None:
    return None if value is None or value != value else int(value)


def _mean(values: Mapping[str, float]) -> float:
    known = [v for v in values.values() if v == v]
    return sum(known) / len(known) if known else math.nan


def _spread(means: Sequence[float]) -> float:
    """Sample standard deviation over seeds; NaN for fewer than two."""
    known = [m for m in means if m == m]
    return stdev(known) if len(known) > 1 else math.nan


def _empty_row(contrast: str, arm: str, place: Mapping[str, str], settings: ScorecardSettings) -> dict[str, Any]:
    metric = place["metric"]
    row: dict[str, Any] = dict.fromkeys(KEYS)
    return row | dict(place) | {
        "contrast": contrast, "arm": arm, "primary": metric in settings.primary, "scope": "checkpoints",
        "better": settings.directions.get(metric, "neither"),
        "chance": settings.chances.get((place["world"], place["split"], metric), math.nan),
    }  # fmt: skip


def _level_fields(values: Values, settings: ScorecardSettings) -> dict[str, Any]:
    estimate = stats.estimate_across_seeds(values, clusters=settings.clusters, level=settings.level)
    return {
        "estimate": estimate.value, "low": estimate.low, "high": estimate.high, "n_problems": estimate.n_problems,
        "n_dropped": estimate.n_dropped, "n_seeds": len(values), "method": estimate.method,
        "seed_sd": _spread([_mean(by_problem) for by_problem in values.values()]),
    }  # fmt: skip


def _level_row(arm: str, values: Values, place: Mapping[str, str], settings: ScorecardSettings) -> dict[str, Any]:
    return _empty_row(LEVEL, arm, place, settings) | _level_fields(values, settings)


def paired(a: Values, b: Values) -> dict[SeedKey, dict[str, float]]:
    """Per-seed, per-problem differences a − b; seeds match exactly, or by base seed where b has no training seed.

    Raises ``ValueError`` when a pair covers different problems.
    """
    pairs = {}
    for (base_seed, train_seed), left in a.items():
        right = b.get((base_seed, train_seed), b.get((base_seed, None)))
        if right is None and len(b) == 1 and base_seed is None:  # loose sample sets carry no seeds
            right = next(iter(b.values()))
        if right is not None:
            if set(left) != set(right):
                raise ValueError(
                    f"two sample sets cover different problems ({len(set(left) ^ set(right))} of them are in one "
                    "only); compare sets of the same problems"
                )
            pairs[base_seed, train_seed] = {problem: left[problem] - right[problem] for problem in left}
    return pairs


def _contrast_row(
    pair: tuple[str, str], arms: Mapping[str, Values], place: Mapping[str, str], settings: ScorecardSettings
) -> dict[str, Any]:
    arm, other = pair
    row = _empty_row(f"{arm}-{other}", arm, place, settings) | _level_fields(arms[arm], settings)
    pairs = paired(arms[arm], arms[other])
    if not pairs:
        raise ValueError(f"{arm} and {other} share no seeds in world {place['world']}; nothing can be paired")
    difference = stats.across_seeds(pairs, clusters=settings.clusters, level=settings.level)
    return row | _difference_fields(difference, row, settings) | {
        "n_seeds": len(pairs), "seed_sd": _spread([_mean(by_problem) for by_problem in pairs.values()]),
    }  # fmt: skip


def _difference_fields(
    difference: stats.Difference, row: Mapping[str, Any], settings: ScorecardSettings
) -> dict[str, Any]:
    margin = settings.margins.get(row["metric"])
    verdict = stats.verdict(difference, better=row["better"], margin=margin)
    return {
        "difference": difference.value, "difference_low": difference.low, "difference_high": difference.high,
        "p_value": difference.p_value, "mde": difference.mde, "margin": margin, "verdict": verdict,
        "n_problems": difference.n_problems, "n_dropped": difference.n_dropped, "method": difference.method,
        "scope": difference.scope, "note": None if difference.scope == "method" else NOTE,
    }  # fmt: skip


def _gap_rows(cells: Mapping[tuple[str, str, str], dict[str, Values]], settings: ScorecardSettings) -> list[dict]:
    """Generalization gap: (gain in distribution) − (gain out of distribution), a difference in differences.

    Positive: the arm gained more, or lost less, in distribution than out of it. Neither direction is "better":
    a collapse that is deeper in distribution has a negative gap. ``estimate`` is the arm's raw gap, which also
    holds the two splits' difference in difficulty; only ``difference`` speaks of training.
    """
    rows = []
    inside = settings.in_distribution
    for world in dict.fromkeys(world for world, _, _ in cells):
        for outside in settings.out_of_distribution:
            for metric in settings.gap_metrics:
                near, far = cells.get((world, inside, metric)), cells.get((world, outside, metric))
                if near and far:
                    place = {"world": world, "split": f"{inside}-{outside}", "metric": f"{GAP}{metric}"}
                    rows += [
                        _gap_row(pair, (near, far), place, settings)
                        for pair in settings.contrasts
                        if _has(near, pair) and _has(far, pair)
                    ]
    return rows


def _gap_row(
    pair: tuple[str, str],
    near_far: tuple[Mapping[str, Values], Mapping[str, Values]],
    place: Mapping[str, str],
    settings: ScorecardSettings,
) -> dict[str, Any]:
    near, far = near_far
    arm, other = pair
    row = _empty_row(f"{arm}-{other}", arm, place, settings) | {"better": "neither"}
    inside, outside = paired(near[arm], near[other]), paired(far[arm], far[other])
    difference = stats.gap_across_seeds(
        inside, outside, clusters=settings.clusters, level=settings.level
    )
    changes = [_mean(inside[key]) - _mean(outside[key]) for key in inside]
    levels = [_mean(near[arm][key]) - _mean(far[arm][key]) for key in near[arm]]
    return row | _difference_fields(difference, row, settings) | {
        "estimate": sum(levels) / len(levels), "n_seeds": len(changes), "seed_sd": _spread(changes),
    }  # fmt: skip


def recovered_rows(values: Frame, settings: ScorecardSettings) -> list[dict[str, Any]]:
    """(arm − standard) / (base − standard) of the primary metrics where higher is better: how much of a loss came back.

    Columns: arm, world, split, metric, estimate, low, high, n_problems, n_dropped, method. NaN, with ``method``
    saying why, where standard lost nothing, or nothing certain. Empty without arms ``base`` and ``standard``.
    """
    rows = []
    others = [arm for arm in settings.arms if arm not in ("base", "standard")]
    higher = [metric for metric in settings.primary if settings.directions.get(metric) == "higher"]
    shown = values[values["metric"].isin(higher)]
    for (world, split, metric), part in shown.groupby(["world", "split", "metric"], sort=False):
        arms = {arm: by_seed(t) for arm, t in part.groupby("arm") if arm in settings.arms}
        for arm in (arm for arm in others if {"base", "standard", arm} <= arms.keys()):
            keys = [key for key in arms["standard"] if key in arms[arm]]
            sides = [{k: arms["base"][k[0], None] for k in keys}]
            sides += [{k: arms[name][k] for k in keys} for name in ("standard", arm)]
            found = stats.recovered_fraction_across_seeds(
                sides[0], sides[1], sides[2], clusters=settings.clusters, level=settings.level
            )
            row = {"arm": arm, "world": world, "split": split, "metric": metric, **asdict(found)}
            row["estimate"] = row.pop("value")
            if sum(map(_mean, sides[0].values())) <= sum(map(_mean, sides[1].values())):
                row |= {"estimate": math.nan, "low": math.nan, "high": math.nan}
                row["method"] = "undefined: standard lost nothing"
            rows.append(row)
    return rows


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Holm within (contrast, split) over the primary metrics of all worlds; other rows keep no adjusted p."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["primary"] and row["p_value"] is not None and row["p_value"] == row["p_value"]:
            families.setdefault((row["contrast"], row["split"]), []).append(row)
    for family in families.values():
        for row, p in zip(family, stats.holm([r["p_value"] for r in family]), strict=True):
            row["p_adjusted"] = float(p)


def scorecard_document(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``scorecard.json``: the config fixed before the runs, and the rows."""
    return {"config": dict(config), "rows": [dict(row) for row in rows]}


def settings_row(settings: ScorecardSettings) -> dict[str, Any]:
    """The settings as JSON, without what stands in the rows or in the problems."""
    return {key: value for key, value in asdict(settings).items() if key not in ("chances", "clusters")}
