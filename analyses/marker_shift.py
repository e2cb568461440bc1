"""Analysis 3: epistemic markers: rates, concentration, shift from base, loops; and where fewer go with better answers.

``markers.csv``: change from base of every marker metric beside accuracy, with intervals across seeds and problems.
``markers_against_accuracy.csv``: per world, split and arm, which way both went. Rates are cut where a loop begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analyses.results import Study
from opsd_eval import figures, figures_training
from opsd_eval.tables import BASE, Frame

ARMS = ("standard", "purified")
PREFIXES = ("marker_", "kim10_raw", "loop_rate", "p_check", "p_wait_given_mismatch")


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write both tables and two figures."""
    table = study.scorecard(blocks, ARMS)
    accuracy = study.config.primary[0]
    kept = table[table["metric"].str.startswith(PREFIXES) | (table["metric"] == accuracy)]
    columns = [
        "world", "split", "arm", "contrast", "metric", "estimate", "low", "high", "difference", "difference_low",
        "difference_high", "n_problems", "n_dropped", "scope",
    ]  # fmt: skip
    written = [
        study.table("markers", kept[columns], blocks=blocks),
        study.table("markers_against_accuracy", both_ways(kept, accuracy), blocks=blocks),
    ]
    data = study.report_data(blocks, ARMS)
    drawn = {"markers": figures.markers(data), "markers_over_training": figures_training.markers_over_training(data)}
    return written + [p for name, figure in drawn.items() if (p := study.figure(name, figure, blocks=blocks))]


def both_ways(table: Frame, accuracy: str) -> Frame:
    """Change of marker rate and of accuracy side by side; a direction only where the interval excludes 0."""
    import pandas as pd

    rows = []
    changes = table[table["contrast"].str.endswith(f"-{BASE}") & table["metric"].isin(["marker_rate", accuracy])]
    for (world, split, arm), part in changes.groupby(["world", "split", "arm"], sort=False):
        by = part.set_index("metric")
        if {"marker_rate", accuracy} <= set(by.index):
            sides = {name: by.loc[name] for name in ("marker_rate", accuracy)}
            ways = {name: _way(row["difference_low"], row["difference_high"]) for name, row in sides.items()}
            row = {"world": world, "split": split, "arm": arm}
            for name, label in (("marker_rate", "markers"), (accuracy, "accuracy")):
                row |= {
                    label: sides[name]["difference"], f"{label}_low": sides[name]["difference_low"],
                    f"{label}_high": sides[name]["difference_high"], f"{label}_way": ways[name],
                }  # fmt: skip
            rows.append(row | {"scope": sides[accuracy]["scope"], "n_problems": sides[accuracy]["n_problems"]})
    return pd.DataFrame(rows)


def _way(low: float, high: float) -> str:
    return "up" if low > 0 else "down" if high < 0 else "open"
