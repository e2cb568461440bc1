"""Analysis 4: accuracy over training in and out of distribution, onset of change, stability, equal distance.

``dynamics.csv``: level and change at every evaluated checkpoint, with the mean KL from base at that step.
``onset.csv``: for each metric the first checkpoint from which its change stays on one side of 0; which moves first.
``stability.csv``: gradient norm, variance of the loss, spread between runs. ``equal_distance.csv``: arms compared at
equal steps and at equal KL from base, since equal steps are not equal moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.results import Study, over_bases
from opsd_eval import figures_training, report_data, scorecard, stats
from opsd_eval.tables import BASE, Frame

ARMS = ("standard", "purified")
FINE = "_fine"  # arms that repeat a run of the main block with more checkpoints
RUN = ["world", "arm", "base_seed", "train_seed"]
WINDOW = 10  # steps of the log that a "last" value averages


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write the four tables and three figures."""
    import pandas as pd

    splits = [study.config.in_distribution, *[s for s in study.config.series if s != study.config.in_distribution]]
    fine = [block for block in blocks if any(arm.endswith(FINE) for arm in study.config.block(block).arms)]
    main = [block for block in blocks if block not in fine]
    data = study.report_data(main, ARMS, splits=splits)
    courses = {m: report_data.series(data, m) for m in (study.config.series_metrics or study.config.primary)}
    log, metric = study.training(main), study.config.primary[0]
    values = with_fine_steps(data.values, study.select(fine, steps="all"))
    tables = {
        "dynamics": with_kl(courses[metric], log),
        "onset": pd.DataFrame(list(onsets(courses))),
        "stability": pd.DataFrame(list(stability(log, level=study.config.level))),
        "equal_distance": pd.DataFrame(list(equal_distance(values, log, metric, level=study.config.level))),
    }
    written = [study.table(name, table, blocks=blocks) for name, table in tables.items()]
    drawn = {
        "dynamics": figures_training.series(data), "distance": figures_training.distance(data),
        "stability": figures_training.stability(data),
    }  # fmt: skip
    return written + [p for name, figure in drawn.items() if (p := study.figure(name, figure, blocks=blocks))]


def with_fine_steps(values: Frame, repeated: Frame) -> Frame:
    """Values with the steps that only a repeated run has evaluated, under the name of the arm it repeats."""
    import pandas as pd

    extra = repeated[repeated["arm"].str.endswith(FINE)]
    extra = extra.assign(arm=extra["arm"].str.removesuffix(FINE))
    have = set(zip(values["arm"], values["step"], strict=True))
    new = [pair not in have for pair in zip(extra["arm"], extra["step"], strict=True)]
    return pd.concat([values, extra[new]], ignore_index=True)


def kl_at(log: Frame) -> dict[tuple[Any, ...], dict[int, float]]:
    """(world, arm, base seed, training seed) → {steps done: KL of student from base, nats a token}.

    A log row's values are those before its update, so row s + 1 is the student after s steps; the last row stands in
    for the end of training, one step early.
    """
    found: dict[tuple[Any, ...], dict[int, float]] = {}
    by_run: Any = log.groupby(RUN)
    for key, part in by_run:
        rows = {int(step) - 1: kl for step, kl in zip(part["step"], part["kl_base"], strict=True)}
        rows[int(part["step"].max())] = rows[int(part["step"].max()) - 1]
        found[key] = rows
    return found


def with_kl(course: Frame, log: Frame) -> Frame:
    """The course of a metric with the mean distance travelled at each step."""
    far = kl_at(log)

    def mean_kl(row: Any) -> float:
        seen = [kls[int(row["step"])] for (world, arm, *_), kls in far.items()
                if (world, arm) == (row["world"], row["arm"]) and int(row["step"]) in kls]  # fmt: skip
        return sum(seen) / len(seen) if seen else 0.0

    return course.assign(kl_from_base=[mean_kl(row) for _, row in course.iterrows()]) if len(course) else course


def onsets(courses: Mapping[str, Frame]) -> Iterator[dict[str, Any]]:
    """First checkpoint from which a metric's change stays below, or above, 0 to the end of training."""
    for metric, course in courses.items():
        if "difference_high" not in course:
            continue
        for (world, split, arm), part in course[course["arm"] != BASE].groupby(["world", "split", "arm"], sort=False):
            turned = part.assign(difference_high=-part["difference_low"])
            falls, rises = report_data.collapse_onset(part), report_data.collapse_onset(turned)
            last = part.sort_values("step").iloc[-1]
            yield {
                "world": world, "split": split, "arm": arm, "metric": metric, "falls_from": falls, "rises_from": rises,
                "change_at_end": last["difference"], "low": last["difference_low"], "high": last["difference_high"],
                "checkpoints": len(part), "runs": int(last["n_seeds"]), "n_problems": int(last["n_problems"]),
            }  # fmt: skip


def stability(log: Frame, *, level: float) -> Iterator[dict[str, Any]]:
    """Per world and arm: means over runs with intervals over bases, and the spread between runs."""
    runs = []
    by_run: Any = log.sort_values("step").groupby(RUN)
    for key, part in by_run:
        end = part.tail(WINDOW)
        runs.append({
            **dict(zip(RUN, key, strict=True)), "grad_norm": part["grad_norm"].mean(),
            "grad_norm_largest": part["grad_norm"].max(), "loss_at_end": end["loss"].mean(),
            "loss_variance_at_end": end["loss"].var(), "kl_at_end": end["kl_base"].iloc[-1],
            "entropy_change": end["entropy"].mean() - part["entropy"].iloc[0],
        })  # fmt: skip
    import pandas as pd

    table: Frame = pd.DataFrame(runs, columns=None if runs else RUN)
    for (world, arm), part in table.groupby(["world", "arm"], sort=False):
        for name in [c for c in part.columns if c not in RUN]:
            found = over_bases(part, name, level=level)
            yield {
                "world": world, "arm": arm, "what": name, "estimate": found.value, "low": found.low,
                "high": found.high, "sd_between_runs": part[name].std(), "base_seeds": found.n_problems,
                "runs": len(part),
            }  # fmt: skip


def equal_distance(values: Frame, log: Frame, metric: str, *, level: float) -> Iterator[dict[str, Any]]:
    """``purified − standard`` at the last step, and where both have moved as far as the less moved of the two.

    Per base and training seed the common distance is the smaller of the two final KLs; a problem's value there is
    interpolated between the checkpoints around it.
    """
    far = kl_at(log)
    shown = values[values["metric"] == metric]
    for (world, split), part in shown.groupby(["world", "split"], sort=False):
        courses = {arm: _course(part, far, world, arm) for arm in ARMS}
        shared = [key for key in courses[ARMS[0]] if key in courses[ARMS[1]]]
        if not shared:
            continue
        start = scorecard.by_seed(part[part["arm"] == BASE])
        common = {key: min(courses[arm][key][-1][0] for arm in ARMS) for key in shared}
        at_end = {arm: {key: courses[arm][key][-1][1] for key in shared} for arm in ARMS}
        at_kl = {
            arm: {key: _between(courses[arm][key], start[key[0], None], common[key]) for key in shared} for arm in ARMS
        }
        for where, sides in (("equal steps", at_end), ("equal KL from base", at_kl)):
            for arm, other in ((ARMS[1], ARMS[0]), (ARMS[0], BASE), (ARMS[1], BASE)):
                against = start if other == BASE else sides[other]
                found = stats.across_seeds(scorecard.paired(sides[arm], against), level=level)
                yield {
                    "world": world, "split": split, "metric": metric, "where": where, "contrast": f"{arm}-{other}",
                    "mean_kl": sum(common.values()) / len(common), "difference": found.value, "low": found.low,
                    "high": found.high, "n_problems": found.n_problems, "n_dropped": found.n_dropped,
                    "base_seeds": found.n_seeds, "runs": len(shared), "scope": found.scope,
                }  # fmt: skip


Course = list[tuple[float, dict[str, float]]]


def _course(part: Frame, far: Mapping[Any, Mapping[int, float]], world: str, arm: str) -> dict[Any, Course]:
    """(base seed, training seed) → [(KL, values by problem)] in the order of steps."""
    found: dict[Any, Course] = {}
    for step, rows in part[part["arm"] == arm].groupby("step"):
        for key, by_problem in scorecard.by_seed(rows).items():
            kls = far.get((world, arm, *key), {})
            if int(step) in kls:
                found.setdefault(key, []).append((kls[int(step)], by_problem))
    return found


def _between(course: Course, start: Mapping[str, float], kl: float) -> dict[str, float]:
    """Values by problem where the course first reaches this KL, linear between checkpoints (the base is at 0)."""
    before: tuple[float, Mapping[str, float]] = (0.0, start)
    for at, values in course:
        if at >= kl:
            share = 1.0 if at <= before[0] else (kl - before[0]) / (at - before[0])
            return {i: (1 - share) * before[1][i] + share * values[i] for i in values}
        before = (at, values)
    return dict(course[-1][1])
