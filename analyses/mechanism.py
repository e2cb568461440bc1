"""Analysis 10: why purifying lifts or lowers the right value, measured where a result is written, before training.

At each position after ``=`` of the base's own samples: r the right result, w every other number. To first order a tilt
exp(Δ) of the base changes P(r) by P_0-covariance, so by the sign of −m with m = E[Δ(w)] − E[Δ(r)]; exactly it changes
the log-odds of r by ``shift`` = Δ(r) − log E_{P_0(w)}[e^Δ(w)]. The second term exceeds the mean of Δ(w) by Jensen's
inequality: that is what noise in the tail costs. Columns, means over positions, then over problems:

m             mean Δ(w) − Δ(r), every w alike (the prototype's diagnostic)
m_weighted    the same with w weighted by the base's own probability
shift         log-odds of r under the purified target (c = 10, β = 1) minus under the base
jensen        the part of −shift that the spread of Δ over wrong values adds to m_weighted
shift_capped  ``shift`` after an intervention: π_ref capped at one half and renormalised (it can explain nothing away)
shift_noised  ``shift`` after zero-mean noise (1 nat) on log π_T of tokens below .01
sharper       share of positions where π_ref(r) > π_T(r)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analyses.cells import find_base
from analyses.four import Scored, scored, word_ids
from analyses.results import Study, contrasts_of
from opsd_eval import stats
from opsd_eval.testbed.chains import apply

PROBLEMS = 100
NOISE = 1.0
CAP = 0.5
MEASURES = ("m", "m_weighted", "shift", "jensen", "shift_capped", "shift_noised", "sharper")


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """``mechanism.csv``: every base's measures; ``mechanism_sign.csv``: against what purified did; and a figure."""
    import pandas as pd

    rows = []
    for label, seed in sorted({(c.world, c.base_seed) for c in study.cells(blocks)}):
        there = study.config.construction(label)
        folder, _ = find_base(there, seed)
        if folder:
            rows += list(measured(folder, there.world, label, seed, level=study.config.level))
    table = pd.DataFrame(rows)
    written = [study.table("mechanism", table, blocks=blocks)]
    signs = against_training(study, blocks, table)
    if len(signs):
        written.append(study.table("mechanism_sign", signs, blocks=blocks))
        path = study.figure("mechanism_shift", draw(signs), blocks=blocks)
        written += [path] if path else []
    return written


def measured(folder: str, world: str, label: str, seed: int, *, level: float) -> Iterator[dict[str, Any]]:
    """One row a measure: mean over problems with its interval."""
    import numpy as np

    ids = word_ids(folder)
    by_problem: dict[str, list[float]] = {name: [] for name in MEASURES}
    for at, one in enumerate(scored(folder, world, n=PROBLEMS)):
        found = list(value_tokens(one, ids, seed=at))
        for name in MEASURES:
            by_problem[name].append(float(np.mean([row[name] for row in found])) if found else math.nan)
    for name, values in by_problem.items():
        found = stats.mean_estimate(values, level=level)
        yield {"world": label, "base_seed": seed, "measure": name, "value": found.value, "low": found.low,
               "high": found.high, "n_problems": found.n_problems, "n_dropped": found.n_dropped}  # fmt: skip


def value_tokens(one: Scored, ids: dict[str, int], *, seed: int) -> Iterator[dict[str, float]]:
    """The measures at each result of a completion whose left side is a value, a sign and an operand."""
    import torch

    numbers = torch.tensor([i for word, i in ids.items() if word.isdecimal()])
    noise = torch.Generator().manual_seed(seed)
    for t in range(4, len(one.words)):
        left, sign, operand, equals = one.words[t - 4 : t]
        if equals != "=" or not (left.isdecimal() and operand.isdecimal()) or sign not in ("+", "-", "*"):
            continue
        right = ids.get(str(apply(int(left), (sign, int(operand)))))
        if right is None:
            continue
        wrong = numbers[numbers != right]
        rows = {role: logp[t] for role, logp in one.logp.items()}
        yield at_one_token(rows, right, wrong, noise)


def at_one_token(logp: dict[str, Any], right: int, wrong: Any, noise: Any) -> dict[str, float]:
    """Every measure at one position; ``logp``: (V,) of teacher, reference and base."""
    import torch

    teacher, reference, base = logp["teacher"], logp["reference"], logp["base"]

    def shift(teacher: Any, reference: Any) -> tuple[float, Any]:
        delta = teacher - reference
        delta = 10.0 * torch.tanh((delta - delta.mean()) / 10.0)
        lifted = torch.logsumexp(base[wrong] + delta[wrong], 0) - torch.logsumexp(base[wrong], 0)
        return float(delta[right] - lifted), delta

    exact, delta = shift(teacher, reference)
    weights = torch.softmax(base[wrong], 0)
    weighted = float((weights * delta[wrong]).sum() - delta[right])
    capped = torch.log_softmax(reference.clamp(max=math.log(CAP)), 0)
    disturbed = teacher + NOISE * torch.randn(teacher.shape, generator=noise, dtype=teacher.dtype) * (
        teacher < math.log(0.01)
    )
    return {
        "m": float(delta[wrong].mean() - delta[right]), "m_weighted": weighted, "shift": exact,
        "jensen": -exact - weighted, "shift_capped": shift(teacher, capped)[0],
        "shift_noised": shift(torch.log_softmax(disturbed, 0), reference)[0],
        "sharper": float(reference[right] > teacher[right]),
    }  # fmt: skip


def against_training(study: Study, blocks: Sequence[str], measures: Any) -> Any:
    """Each base's measures beside what purified did to its step accuracy and accuracy (runs averaged)."""
    import pandas as pd

    values = study.select(blocks)
    names = {"step_accuracy": "d_step_accuracy", f"avg@{study.config.draws}": "d_accuracy"}
    values = values[(values["split"] == study.config.in_distribution) & values["metric"].isin(names)]
    if measures.empty or values.empty:
        return pd.DataFrame()
    rows = []
    wide = measures.pivot_table(index=["world", "base_seed"], columns="measure", values="value")
    for (world, seed), part in values.groupby(["world", "base_seed"]):
        change = contrasts_of(part, "purified", "base", level=study.config.level)
        if (world, seed) not in wide.index or change.empty:
            continue
        row = {"world": world, "base_seed": seed, **wide.loc[(world, seed)].to_dict()}
        for one in change.itertuples():
            name = names[one.metric]
            row |= {name: one.difference, f"{name}_low": one.low, f"{name}_high": one.high}
        rows.append(row)
    return pd.DataFrame(rows)


def draw(signs: Any) -> Any:
    """Predicted shift against the realised change in step accuracy, one point a base."""
    from opsd_eval.plotstyle import INK, colours, footnote, legend, markers, new_figure, style

    worlds = list(dict.fromkeys(signs["world"]))
    with style():
        figure, axes = new_figure(1, 2, width=9, height=3.2)
        palette, marks = colours(["", *worlds]), markers(["", *worlds])
        for panel, name in zip(axes[0], ("m", "shift"), strict=True):
            for world in worlds:
                part = signs[signs["world"] == world]
                bars = [part["d_step_accuracy"] - part["d_step_accuracy_low"],
                        part["d_step_accuracy_high"] - part["d_step_accuracy"]]  # fmt: skip
                panel.errorbar(part[name], part["d_step_accuracy"], yerr=bars, fmt=marks[world], color=palette[world],
                               label=world, capsize=2)  # fmt: skip
            panel.axhline(0, color=INK, linewidth=0.8, linestyle=":")
            panel.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        axes[0, 0].set_xlabel("m, nats (below 0 promises a gain)")
        axes[0, 1].set_xlabel("shift, nats (above 0 promises a gain)")
        axes[0, 0].set_ylabel("step accuracy, purified − base")
        legend(figure, axes[0, 0])
        footnote(figure, "one point a base; x measured before training; bars: interval over problems")
    return figure
