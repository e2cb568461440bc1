"""Analysis 1: base, standard and purified per world and split, every metric family, at the checkpoint fixed in advance.

``ablation_table.csv`` speaks of the method (intervals across base seeds, training seeds and problems),
``ablation_checkpoints.csv`` of each base's checkpoints (intervals across problems).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analyses.results import Study
from opsd_eval import figures
from opsd_eval.tables import BASE, Frame

ARMS = ("standard", "purified")
COLUMNS = [
    "world", "split", "metric", "contrast", "arm", "estimate", "low", "high", "difference", "difference_low",
    "difference_high", "p_value", "p_adjusted", "margin", "mde", "verdict", "better", "primary", "scope", "n_problems",
    "n_dropped", "n_seeds", "seed_sd", "chance",
]  # fmt: skip


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write both tables and the forest of contrasts."""
    table = study.scorecard(blocks, ARMS)
    written = [study.table("ablation_table", table[COLUMNS], blocks=blocks)]
    written.append(study.table("ablation_checkpoints", checkpoints(study, blocks), blocks=blocks))
    data = study.report_data(blocks, ARMS)
    for name, draw in (("contrasts", figures.contrasts), ("mechanism", figures.mechanism)):
        if path := study.figure(name, draw(data), blocks=blocks):
            written.append(path)
    return written


def checkpoints(study: Study, blocks: Sequence[str]) -> Frame:
    """Primary metrics of each base seed on its own: intervals over problems, training seeds averaged."""
    import pandas as pd

    from opsd_eval import scorecard, stats

    values = study.select(blocks)
    rows = []
    kept = values[values["metric"].isin(study.config.primary)]
    for (world, split, metric, seed), part in kept.groupby(["world", "split", "metric", "base_seed"], sort=False):
        sides = {arm: scorecard.by_seed(rows) for arm, rows in part.groupby("arm")}
        for arm in ARMS:
            if arm in sides and BASE in sides:
                found = stats.across_seeds(scorecard.paired(sides[arm], sides[BASE]), level=study.config.level)
                rows.append({
                    "world": world, "split": split, "metric": metric, "base_seed": seed, "contrast": f"{arm}-{BASE}",
                    "difference": found.value, "low": found.low, "high": found.high, "p_value": found.p_value,
                    "n_problems": found.n_problems, "n_dropped": found.n_dropped, "runs": len(sides[arm]),
                    "scope": found.scope,
                })  # fmt: skip
    return pd.DataFrame(rows)
