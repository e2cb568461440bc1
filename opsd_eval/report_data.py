"""Everything a report shows, gathered once: scorecard rows, tidy tables, the sets behind them, what is built in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from opsd_eval import scorecard, stats, tables
from opsd_eval.records import RunRecord, read_problems, read_run
from opsd_eval.scorecard_text import ALSO
from opsd_eval.tables import Frame


@dataclass(frozen=True)
class ReportData:
    """The inputs of every figure and table of one report.

    ``values`` and ``outcomes`` cover every evaluated checkpoint, ``rows`` only the one to report. ``training`` is
    empty for sample sets without logs. ``about`` says, per world, what its construction builds in.
    """

    title: str
    arms: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    sets: Sequence[tables.SetInfo]
    reported: Sequence[tables.SetInfo]
    values: Frame
    outcomes: Frame
    training: Frame
    settings: scorecard.ScorecardSettings
    config: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    draws: int | None = None
    notes: Sequence[str] = ()
    recovered: Sequence[Mapping[str, Any]] = ()
    pairs: Frame = None

    @property
    def worlds(self) -> list[str]:
        """Worlds in the order of the scorecard."""
        return list(dict.fromkeys(row["world"] for row in self.rows))

    @property
    def splits(self) -> list[str]:
        """Splits with sample sets, in distribution first."""
        found = dict.fromkeys(s.split for s in self.sets)
        return sorted(found, key=lambda split: split != self.settings.in_distribution)

    def level_row(self, world: str, split: str, arm: str, metric: str) -> Mapping[str, Any] | None:
        """The ``level`` row of one cell, or ``None`` where it was not measured."""
        return self._levels.get((world, split, arm, metric))

    @cached_property
    def _levels(self) -> Mapping[tuple[str, str, str, str], Mapping[str, Any]]:
        return {(r["world"], r["split"], r["arm"], r["metric"]): r for r in self.rows if r["contrast"] == "level"}


def from_study(
    study: Path | str,
    settings: scorecard.ScorecardSettings,
    *,
    config: Mapping[str, Any],
    about: Mapping[str, str],
    report_step: int | None = None,
) -> ReportData:
    """Gather a study folder; ``report_step`` is the checkpoint to report (``None``: each run's last)."""
    sets = tables.find_sets(study)
    reported = tables.at_step(sets, report_step)
    values = tables.problem_values(sets)
    draws = _draws(values)
    settings = replace(
        settings, clusters=_clusters(values), chances=_chances(reported),
        directions=directions(set(values["metric"]), draws or 1) | dict(settings.directions),
    )  # fmt: skip
    paths = {str(s.path) for s in reported}
    at_report = values[values["path"].isin(list(paths))]
    return ReportData(
        title=str(config.get("title") or Path(study).name), arms=settings.arms, sets=sets,
        rows=scorecard.build_scorecard(at_report, settings), recovered=scorecard.recovered_rows(at_report, settings),
        reported=reported, values=values, outcomes=tables.outcome_shares(sets), training=tables.training(study),
        settings=settings, config=config, about=about, draws=draws, pairs=tables.against_base(reported),
    )  # fmt: skip


def from_sets(
    paths: Sequence[Path | str] = (), *, arms: Mapping[str, Sequence[Path | str]] | None = None,
    margin: float | None = None, level: float = 0.95,
) -> ReportData:
    """Gather sample sets from anywhere; the first one is the baseline of every contrast, and in distribution.

    ``opsd_eval/arms.py`` says which sets are one arm on several benchmarks; ``arms`` (name: sets) says so instead.
    Every other benchmark (or split) is out of distribution: changes there give the generalization gaps. Of an arm with
    several checkpoints the last is reported, and all make its series. Sets over different problems (of one world
    and split) cannot be paired: they keep their levels and a note says so. Nothing was fixed before these samples were
    made, so no metric is called primary beyond accuracy, which is also given by task where a set holds several.
    """
    import pandas as pd

    sets = tables.loose_sets(paths, arms=arms)
    values, notes = _equal_draws(_distinct_ids(tables.problem_values(sets)))
    names = list(dict.fromkeys(s.arm for s in sets))
    metrics = set(values["metric"])
    shared = set.intersection(*(set(part["metric"]) for _, part in values.groupby("path"))) or metrics
    average = _largest(shared, "avg@") or ("pass@1" if "pass@1" in shared else None)
    primary = [m for m in dict.fromkeys([average, _largest(shared, "pass@")]) if m]
    contrasts, unpaired = _contrasts(values, names)
    reported = tables.at_step(sets)
    at_report = values[values["path"].isin([str(s.path) for s in reported])]
    at_report = pd.concat([at_report, *_by_task(reported, at_report[at_report["metric"].isin(primary)])])
    settings = scorecard.ScorecardSettings(
        arms=names, contrasts=contrasts, primary=primary, level=level,
        margins={} if margin is None else dict.fromkeys(primary, margin),
        directions=directions(metrics, _draws(values) or 1), clusters=_clusters(values), chances=_chances(sets),
        in_distribution=sets[0].split,
        out_of_distribution=list(dict.fromkeys(s.split for s in sets if s.split != sets[0].split)),
        gap_metrics=[*primary, *_other_families(values, shared)],
    )  # fmt: skip
    config = {"sets": [str(s.path) for s in sets], "level": level, "margin": margin, "primary": primary}
    if len(reported) < len(sets):
        last = {s.arm: s.step for s in reported if s.step is not None}
        notes.append(f"Reported is the last checkpoint: {', '.join(f'{a} at step {n}' for a, n in last.items())}.")
        missing = {(s.arm, s.split) for s in sets} - {(s.arm, s.split) for s in reported}
        notes += [
            f"{arm} has no set of {split} at its last checkpoint: no row there." for arm, split in sorted(missing)
        ]
    return ReportData(
        title="Sample sets", arms=names, rows=scorecard.build_scorecard(at_report, settings), sets=sets,
        reported=reported, values=values, outcomes=tables.outcome_shares(sets), training=pd.DataFrame(),
        settings=settings, config=config, notes=[*unpaired, *notes],
        draws=_draws(values) if _same_draws(values) else None,
        pairs=_pairs(reported, [(arm, other) for arm, other in contrasts if other == names[0]], level),
        recovered=scorecard.recovered_rows(at_report, settings),
    )  # fmt: skip


def _distinct_ids(values: Frame) -> Frame:
    """The values with the split before every problem's id, where logs of two benchmarks both count from 0."""
    ids = values[["split", "problem_id"]].drop_duplicates()["problem_id"]
    return values.assign(problem_id=values["split"] + "/" + values["problem_id"]) if ids.duplicated().any() else values


def _by_task(sets: Sequence[tables.SetInfo], values: Frame) -> list[Frame]:
    """These values once more with the task as split, of sets that hold several tasks (a group of a harness)."""
    found = []
    for info in sets:
        tasks = {p.problem_id: p.axes.get("task") for p in read_problems(info.path).values()}
        if len({*tasks.values()}) > 1:
            tasks |= {f"{info.split}/{problem_id}": task for problem_id, task in tasks.items()}
            part = values[values["path"] == str(info.path)]
            found.append(part.assign(split=part["problem_id"].map(tasks)).dropna(subset=["split"]))
    return found


def _contrasts(values: Frame, arms: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Every arm against the first (and ``standard``) where both were asked the same problems; notes of the others."""
    contrasts, notes = [], []
    for arm, other in scorecard.default_contrasts(arms, arms[0]):
        if _same_problems(values, other, arm):
            contrasts.append((arm, other))
        elif other == arms[0]:
            notes.append(f"{arm} and {other} were sampled on different problems: no paired comparison of the two.")
    return contrasts, notes


def _other_families(values: Frame, shared: set[str]) -> list[str]:
    """One metric of each family beside accuracy that all sets have; at unequal draws none that depends on them."""
    left_out = [] if _same_draws(values) else _by_draws()
    return [name for name in ALSO if name in shared and name not in left_out]


def _same_draws(values: Frame) -> bool:
    """Whether all sets have the same number of draws."""
    return values.groupby("path")["n"].max().nunique() == 1


def _by_draws() -> list[str]:
    """Metrics whose value depends on the number of draws."""
    from opsd_eval.metrics import METRICS

    return [metric.name for metric in METRICS.values() if metric.equal_n]


def _equal_draws(values: Frame) -> tuple[Frame, list[str]]:
    """The values, where the sets of a split differ in draws without the metrics that depend on them; and a note."""
    depends, notes = values["metric"].isin(_by_draws()), []
    most = values.groupby("path")["n"].transform("max")
    differ = most.groupby([values["world"], values["split"]]).transform("nunique") > 1
    if (differ & depends).any():
        where = ", ".join(dict.fromkeys(values.loc[differ, "split"]))
        notes.append(f"Sets of {where} differ in draws: metrics that depend on their number (diversity) are left out.")
    return values[~(differ & depends)], notes


def _pairs(sets: Sequence[tables.SetInfo], contrasts: Sequence[tuple[str, str]], level: float) -> Frame:
    """Pair metrics of every compared set against the baseline's set of the same world and split."""
    import pandas as pd

    place = {(s.arm, s.world, s.split): s for s in sets}
    found = [
        tables.pair_table(place[other, s.world, s.split].path, s.path, level=level).assign(**s.columns())
        for arm, other in contrasts for s in sets if s.arm == arm and (other, s.world, s.split) in place
    ]  # fmt: skip
    if not found:
        return pd.DataFrame()
    return pd.concat(found, ignore_index=True)[[*tables.INDEX, *tables.PAIR_COLUMNS]]


def directions(metrics: set[str] | Sequence[str], n: int) -> dict[str, str]:
    """``higher``, ``lower`` or ``neither`` for each measured metric, as the registry declares it.

    A column that no registered metric computes has no better direction.
    """
    from opsd_eval.metrics import METRICS, default_metrics

    known = {metric.name: metric.better for metric in [*METRICS.values(), *default_metrics(n)]}
    return {name: known.get(name, "neither") for name in sorted(metrics)}


def _largest(metrics: set[str], prefix: str) -> str | None:
    found = [m for m in metrics if m.startswith(prefix) and m[len(prefix) :].isdigit()]
    return max(found, key=lambda m: int(m[len(prefix) :]), default=None)


def _same_problems(values: Frame, a: str, b: str) -> bool:
    """Whether two arms share a (world, split), and all their sets cover the same problems in every one they share."""
    asked: dict[str, dict[tuple[str, str], list[set[str]]]] = {a: {}, b: {}}
    for (arm, world, split, _), part in values.groupby(["arm", "world", "split", "path"]):
        if arm in asked:
            asked[arm].setdefault((world, split), []).append(set(part["problem_id"]))
    shared = asked[a].keys() & asked[b].keys()
    return bool(shared) and all(
        one == asked[a][place][0] for place in shared for one in (*asked[a][place], *asked[b][place])
    )


def _clusters(values: Frame) -> dict[str, str | None] | None:
    if "cluster" not in values or values["cluster"].isna().all():
        return None
    unique = values.drop_duplicates("problem_id")
    return {p: None if c != c else c for p, c in zip(unique["problem_id"], unique["cluster"], strict=True)}


def _chances(sets: Sequence[tables.SetInfo]) -> dict[tuple[str, str, str], float]:
    """What guessing would give per (world, split, metric), from the sets' ``estimates.json``."""
    found = {}
    for s in sets:
        if (s.path / "estimates.json").exists():
            for row in tables.estimate_rows(s.path):
                if row.get("chance") is not None:
                    found[s.world, s.split, row["metric"]] = row["chance"]
    return found


def _draws(values: Frame) -> int | None:
    return int(values["n"].max()) if "n" in values and values["n"].notna().any() else None


# --- what figures compute -----------------------------------------------------------------------------------


def series(data: ReportData, metric: str) -> Frame:
    """Level and difference from the baseline at every evaluated checkpoint, with intervals over problems (and seeds).

    Columns: world, split, arm, step, estimate, low, high, difference, difference_low, difference_high, n_problems,
    n_seeds. Trained arms start at the baseline's level at step 0.
    """
    import pandas as pd

    part = data.values[data.values["metric"] == metric]  # undefined values stay, so that problems pair
    found = []
    for (world, split), group in part.groupby(["world", "split"], sort=False):
        by_arm = {str(arm): rows for arm, rows in group.groupby("arm", sort=False)}
        baseline = by_arm.get(data.arms[0])
        start = scorecard.by_seed(baseline) if baseline is not None else None
        for arm in data.arms:
            if arm in by_arm:
                found += _arm_series({"world": world, "split": split, "arm": arm}, by_arm[arm], start, data)
    return pd.DataFrame(found)


def _arm_series(place: dict[str, Any], rows: Frame, start: Any, data: ReportData) -> list[dict[str, Any]]:
    found = []
    for step, at_step in rows.groupby("step", dropna=False):
        values = scorecard.by_seed(at_step)
        level = stats.estimate_across_seeds(values, clusters=data.settings.clusters, level=data.settings.level)
        row = {**place, "step": step, "estimate": level.value, "low": level.low, "high": level.high}
        row |= {"n_problems": level.n_problems, "n_seeds": len(values)}
        if start is not None and (place["arm"], data.arms[0]) in data.settings.contrasts:
            pairs = scorecard.paired(values, start)
            change = stats.across_seeds(pairs, clusters=data.settings.clusters, level=data.settings.level)
            row |= {"difference": change.value, "difference_low": change.low, "difference_high": change.high}
        found.append(row)
    return found


def collapse_onset(table: Frame, *, margin: float = 0.0) -> float | None:
    """First evaluated step from which the difference stays wholly below −margin to the end; ``None`` if it never is.

    ``table`` is one arm's :func:`series` of a metric where higher is better.
    """
    onset = None
    for step, high in table.sort_values("step")[["step", "difference_high"]].itertuples(index=False):
        onset = (step if onset is None else onset) if high < -margin else None
    return onset


def run_record(info: tables.SetInfo) -> RunRecord:
    """The run record of a sample set."""
    return read_run(info.path)
