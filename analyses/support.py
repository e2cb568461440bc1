"""Analysis 9: what is lost beyond the mean: pass@k crossover, support, hard problems, diversity, transfer, forgetting.

``pass_at_k.csv``: difference from base at every k; ``crossover.csv``: whether the sign turns with k. ``support.csv``:
support loss (beyond what two equal models show), hard-tail retention, diversity beside accuracy.
``generalization.csv``: change in distribution minus change out of it, split by split (difference in differences).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analyses.results import Study
from opsd_eval import figures
from opsd_eval.tables import BASE, Frame

ARMS = ("standard", "purified")
SUPPORT = ("support_loss", "support_loss_excess", "hard_tail_retention", "distinct_answers", "distinct_answers_correct",
           "answer_entropy", "distinct_paths", "distinct_paths_correct", "self_consistency")  # fmt: skip
KEPT = ["world", "split", "contrast", "arm", "metric", "estimate", "low", "high", "difference", "difference_low",
        "difference_high", "p_value", "n_problems", "n_dropped", "n_seeds", "scope"]  # fmt: skip


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write four tables and three figures."""
    import pandas as pd

    table = study.scorecard(blocks, ARMS)
    passes = table[table["metric"].str.fullmatch(r"pass@\d+")]
    trained = table[table["contrast"] != "level"]
    tables = {
        "pass_at_k": passes[KEPT],
        "crossover": pd.DataFrame(list(crossovers(passes))),
        "support": table[table["metric"].isin((*SUPPORT, study.config.primary[0]))][KEPT],
        "generalization": trained[trained["metric"].str.startswith("generalization_gap_")][KEPT],
    }
    written = [study.table(name, part, blocks=blocks) for name, part in tables.items()]
    data = study.report_data(blocks, ARMS)
    drawn = {"pass_at_k": figures.pass_at_k(data), "diversity": figures.diversity(data), "gap": figures.gap(data)}
    return written + [p for name, figure in drawn.items() if (p := study.figure(name, figure, blocks=blocks))]


def crossovers(passes: Frame) -> Iterator[dict[str, Any]]:
    """Sign of ``arm − base`` at the smallest and largest k; it crosses where both intervals exclude 0 and differ."""
    changes = passes[passes["contrast"].str.endswith(f"-{BASE}")]
    for (world, split, arm), part in changes.groupby(["world", "split", "arm"], sort=False):
        rows = part.assign(k=part["metric"].str.removeprefix("pass@").astype(int)).sort_values("k")
        first, last = rows.iloc[0], rows.iloc[-1]
        signs = [_sign(row["difference_low"], row["difference_high"]) for row in (first, last)]
        yield {
            "world": world, "split": split, "arm": arm, "k_first": first["k"], "difference_first": first["difference"],
            "low_first": first["difference_low"], "high_first": first["difference_high"], "k_last": last["k"],
            "difference_last": last["difference"], "low_last": last["difference_low"],
            "high_last": last["difference_high"], "crosses": signs[0] * signs[1] < 0, "scope": last["scope"],
        }  # fmt: skip


def _sign(low: float, high: float) -> int:
    return int(low > 0) - int(high < 0)
