"""Analysis 2: the signal decomposition over training, in four geometries, by class of token and by position.

Δ_total = Δ_ref + Δ_it. ``decomposition.csv``: cosines and norm ratio at each diagnosed step, mean over runs with an
interval over bases. ``decomposition_artefact.csv``: how much of the plain numbers is the normaliser (plain − centred)
or the tail (centred − weighted by probability). ``decomposition_predicts.csv``: does a number seen before training
order bases and worlds by what training will do to accuracy?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analyses.results import Study, contrasts_of
from opsd_eval import figures, stats
from opsd_eval.tables import BASE, Frame

ARMS = ("standard", "purified")
MEASURES = ("cos_total_ref", "cos_total_it", "norm_ratio")
VARIANTS = ("plain", "centred", "weighted", "topk")
GROUPS = ("", "[marker]", "[operator]", "[number]", "[answer]", "[other]", "[first]", "[second]", "[third]", "[last]")


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write the three tables and the figure."""
    import pandas as pd

    log = study.training(blocks)
    level = study.config.level
    tables = {
        "decomposition": pd.DataFrame(list(course(log, level=level))),
        "decomposition_artefact": pd.DataFrame(list(artefact(log, level=level))),
        "decomposition_predicts": pd.DataFrame(list(predicts(study, log, blocks))),
    }
    written = [study.table(name, table, blocks=blocks) for name, table in tables.items()]
    drawn = figures.decomposition(study.report_data(blocks, ARMS))
    return written + [path for path in [study.figure("decomposition", drawn, blocks=blocks)] if path]


def course(log: Frame, *, level: float) -> Iterator[dict[str, Any]]:
    """One row a world, arm, step, measure, variant and group of tokens ("" is all of them)."""
    means = base_means(log)
    runs: Any = diagnosed(log).groupby(["world", "arm", "step"]).size()
    named = [(m, v, g, f"diagnostics.{m}_{v}{g}") for m in MEASURES for v in VARIANTS for g in GROUPS]
    for place, part in means.groupby(["world", "arm", "step"], sort=False):
        for measure, variant, group, column in named:
            if column in part:
                found = stats.mean_estimate(part[column].to_numpy(float), level=level)
                yield {
                    **dict(zip(("world", "arm", "step"), place, strict=True)), "measure": measure, "variant": variant,
                    "tokens": group.strip("[]") or "all", "estimate": found.value, "low": found.low,
                    "high": found.high, "base_seeds": found.n_problems, "runs": int(runs[place]),
                }  # fmt: skip


def base_means(log: Frame) -> Any:
    """Diagnoses averaged over the training seeds of each base: one row a world, arm, step and base seed."""
    seen = diagnosed(log)
    columns = [c for c in seen.columns if c.startswith("diagnostics.")]
    return seen.groupby(["world", "arm", "step", "base_seed"], sort=False)[columns].mean()


def diagnosed(log: Frame) -> Frame:
    """The steps of a log that carry a diagnosis."""
    column = "diagnostics.cos_total_ref_plain"
    return log[log[column].notna()] if column in log else log.iloc[:0]


def artefact(log: Frame, *, level: float) -> Iterator[dict[str, Any]]:
    """Paired differences between geometries, at the first and the last diagnosed step."""
    pairs = (("normaliser", "plain", "centred"), ("tail", "centred", "weighted"), ("beyond top k", "centred", "topk"))
    for (world, arm), part in base_means(log).groupby(["world", "arm"], sort=False):
        steps = part.index.get_level_values("step")
        for step in (steps.min(), steps.max()):
            here = part[steps == step]
            for measure in MEASURES:
                for what, one, other in pairs:
                    gap = here[f"diagnostics.{measure}_{one}"] - here[f"diagnostics.{measure}_{other}"]
                    found = stats.mean_estimate(gap.to_numpy(float), level=level)
                    yield {
                        "world": world, "arm": arm, "step": step, "measure": measure, "what": what,
                        "difference": f"{one} - {other}", "estimate": found.value, "low": found.low,
                        "high": found.high, "base_seeds": found.n_problems,
                    }  # fmt: skip


def predicts(study: Study, log: Frame, blocks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rank correlation, over worlds and bases, of a number at step 1 with the final change of accuracy.

    The interval resamples whole worlds (a cluster each), so it is wide with few worlds.
    """
    import numpy as np

    metric = study.config.primary[0]
    values = study.select(blocks)
    values = values[(values["metric"] == metric) & (values["split"] == study.config.in_distribution)]
    first = diagnosed(log)
    first = first[first["step"] == 1]
    for arm in ARMS:
        changes = changes_by_base(values, arm, level=study.config.level)
        for measure in MEASURES:
            for variant in VARIANTS:
                column = f"diagnostics.{measure}_{variant}"
                if column not in first:
                    continue
                seen = first[first["arm"] == arm].groupby(["world", "base_seed"])[column].mean()
                keys = [key for key in changes if key in seen.index]
                pairs = np.array([(seen[key], changes[key]) for key in keys], dtype=float).reshape(len(keys), 2)
                if len({world for world, _ in keys}) < 3:
                    continue
                found = stats.bootstrap_estimate(
                    pairs, statistic=rank_correlation, n_resamples=2000, clusters=[world for world, _ in keys],
                    level=study.config.level,
                )  # fmt: skip
                yield {
                    "arm": arm, "measure": measure, "variant": variant, "against": f"change of {metric}",
                    "spearman": found.value, "low": found.low, "high": found.high, "bases": len(keys),
                    "worlds": len({world for world, _ in keys}),
                }  # fmt: skip


def rank_correlation(pairs: Any) -> float:
    """Spearman's correlation of two columns, ties averaged; NaN where one of them does not vary."""
    import pandas as pd

    return float(pd.DataFrame(pairs).rank().corr().iloc[0, 1])


def changes_by_base(values: Frame, arm: str, *, level: float) -> dict[tuple[str, int], float]:
    """(world, base seed) → mean change of accuracy from base, training seeds averaged."""
    found = {}
    for seed, part in values.groupby("base_seed"):
        for row in contrasts_of(part, arm, BASE, level=level).to_dict("records"):
            found[row["world"], int(seed)] = row["difference"]
    return found
