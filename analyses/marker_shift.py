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
PER_COMPLETION = "markers_per_completion"
PREFIXES = ("marker_", PER_COMPLETION, "kim10_raw", "loop_rate", "p_check", "p_wait_given_mismatch")


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write both tables and two figures."""
    import pandas as pd

    accuracy = study.config.primary[0]
    table = pd.concat([study.scorecard(blocks, ARMS), study.rows_of(per_completion(study.select(blocks)), ARMS)])
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


def per_completion(values: Frame) -> Frame:
    """Markers in a completion, by problem: hits ÷ draws = (hits ÷ tokens) · (tokens ÷ draws).

    A rate per token rises when completions shorten around their markers; this number does not.
    """
    keys = [c for c in values.columns if c not in ("metric", "value")]
    sides = [values[values["metric"] == name].set_index(keys)["value"] for name in ("marker_rate", "completion_tokens")]
    found = (sides[0] * sides[1] / 1000).rename("value").reset_index()
    return found.assign(metric=PER_COMPLETION)


def both_ways(table: Frame, accuracy: str) -> Frame:
    """Change of marker rate, marker count and accuracy side by side; a direction where the interval excludes 0."""
    import pandas as pd

    rows = []
    shown = {"marker_rate": "rate", PER_COMPLETION: "count", accuracy: "accuracy"}
    changes = table[table["contrast"].str.endswith(f"-{BASE}") & table["metric"].isin(list(shown))]
    for (world, split, arm), part in changes.groupby(["world", "split", "arm"], sort=False):
        by = part.set_index("metric")
        if set(shown) <= set(by.index):
            row = {"world": world, "split": split, "arm": arm}
            for name, label in shown.items():
                low, high = by.loc[name, "difference_low"], by.loc[name, "difference_high"]
                row |= {label: by.loc[name, "difference"], f"{label}_low": low, f"{label}_high": high,
                        f"{label}_way": _way(low, high)}  # fmt: skip
            rows.append(row | {key: by.loc[accuracy, key] for key in ("scope", "n_problems", "n_dropped")})
    return pd.DataFrame(rows)


def _way(low: float, high: float) -> str:
    return "up" if low > 0 else "down" if high < 0 else "open"
