"""Figures over training: checkpoints, markers, distance, decomposition, stability. Lines are runs and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsd_eval import plotstyle
from opsd_eval.plotstyle import INK, LINESTYLES, Room, empty, footnote, legend, new_figure
from opsd_eval.report_data import ReportData, collapse_onset
from opsd_eval.report_data import series as series_table
from opsd_eval.tables import Frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KL_BASE = "kl_base"
KL_DIAGNOSED = "diagnostics.kl_from_base"
VARIANTS = ("plain", "centred", "weighted", "topk")
VARIANT_TITLES = ("plain (as published)", "centred", "weighted by probability", "top-k union")
RUN_KEYS = ["base_seed", "train_seed"]


def series(data: ReportData) -> Figure | None:
    """Accuracy at every checkpoint, and against distance travelled where it was logged; from two checkpoints on."""
    metric = next(iter(data.settings.primary), None)
    if metric is None:
        return None
    table = series_table(data, metric)
    trained = table[table["arm"] != data.arms[0]] if len(table) else table
    if table.empty or trained.groupby("arm")["step"].nunique().max() < 2:
        return None
    logged = with_distance(data.training)
    columns = [*data.splits, *([KL_BASE] if KL_BASE in logged else [])]
    figure, panels = plotstyle.place_figure(data.worlds, columns, height=2.8, room=Room(title=0.3))
    for (world, split), panel in panels.items():
        of_world = table[table["world"] == world]
        if split == KL_BASE:
            part = of_world[of_world["split"] == data.splits[0]]
            _distance_panel(panel, part, data, logged[logged["world"] == world])
            panel.set(title=f"{world} · {data.splits[0]}", xlabel="KL from base, nats a token")
        else:
            _series_panel(panel, of_world[of_world["split"] == split], data, metric)
            panel.set(title=f"{world} · {split}", xlabel="training step")
    first = next(iter(panels.values()))
    first.set_ylabel(metric)
    legend(figure, first)
    footnote(figure, f"n = {table['n_problems'].max()} problems × {table['n_seeds'].max()} runs; bands: "
             f"{data.settings.level:.0%} interval over problems; × onset of collapse")  # fmt: skip
    return figure


def _series_panel(panel: Axes, table: Frame, data: ReportData, metric: str) -> None:
    colour, marker = plotstyle.colours(data.arms), plotstyle.markers(data.arms)
    start = table[table["arm"] == data.arms[0]]
    margin = data.settings.margins.get(metric) or 0.0
    for arm in data.arms:
        part = table[table["arm"] == arm].sort_values("step")
        if part.empty:
            continue
        if arm == data.arms[0]:
            level = part.iloc[0]
            panel.axhspan(level["low"], level["high"], color=colour[arm], alpha=0.14, linewidth=0)
            panel.axhline(level["estimate"], color=colour[arm], linestyle="--", linewidth=1.3, label=arm)
            continue
        onset = collapse_onset(part, margin=margin) if "difference_high" in part else None
        drawn = part if start.empty else _with_start(start, part)
        panel.plot(drawn["step"], drawn["estimate"], color=colour[arm], marker=marker[arm], label=arm)
        panel.fill_between(drawn["step"], drawn["low"], drawn["high"], color=colour[arm], alpha=0.16, linewidth=0)
        if onset is not None:
            at = part[part["step"] == onset].iloc[0]
            panel.plot(onset, at["estimate"], marker="x", markersize=11, markeredgewidth=2.2, color=INK)


def _with_start(start: Frame, part: Frame) -> Frame:
    import pandas as pd

    return pd.concat([start.assign(step=0), part], ignore_index=True)


def with_distance(training: Frame) -> Frame:
    """The training log with ``kl_base`` at every step that measured it, in the loss or in a diagnosis."""
    if KL_DIAGNOSED not in training:
        return training
    diagnosed = training[KL_DIAGNOSED]
    known = training[KL_BASE].astype(float).fillna(diagnosed) if KL_BASE in training else diagnosed
    return training.assign(**{KL_BASE: known})


def _distance_panel(panel: Axes, table: Frame, data: ReportData, logged: Frame) -> None:
    """Accuracy against the mean KL from base over the runs of an arm, at the logged step nearest below."""
    colour, marker = plotstyle.colours(data.arms), plotstyle.markers(data.arms)
    logged = logged[logged[KL_BASE].notna()]
    for arm in data.arms[1:]:
        means = logged[logged["arm"] == arm].groupby("step")[KL_BASE].mean()
        points = [(0.0, row) for _, row in table[table["arm"] == data.arms[0]].iterrows()]
        for _, row in table[table["arm"] == arm].sort_values("step").iterrows():
            before = means[means.index <= row["step"]]
            if not before.empty:
                points.append((float(before.iloc[-1]), row))
        if len(points) > 1:
            x = [kl for kl, _ in points]
            bars = [[r["estimate"] - r["low"] for _, r in points], [r["high"] - r["estimate"] for _, r in points]]
            panel.errorbar(x, [r["estimate"] for _, r in points], yerr=bars, color=colour[arm], marker=marker[arm],
                           capsize=2.5, linewidth=1.3)  # fmt: skip


def markers_over_training(data: ReportData) -> Figure | None:
    """Marker rate, completion length and entropy of the training rollouts."""
    return _over_training(data, {
        "marker_rate": "markers per 1,000 tokens", "completion_tokens": "tokens a completion",
        "truncation_rate": "truncated share", "entropy": "entropy, nats",
    })  # fmt: skip


def distance(data: ReportData) -> Figure | None:
    """KL of the student from base."""
    return _over_training(data, {KL_BASE: "KL from base, nats a token"}, table=with_distance(data.training))


def stability(data: ReportData) -> Figure | None:
    """Loss, its variance in a moving window, gradient norm, and spread of the loss over runs."""
    if data.training.empty or "loss" not in data.training:
        return None
    table = data.training.copy()
    keys = ["world", "arm", *RUN_KEYS]
    window = max(5, int(table["step"].max()) // 10)
    table["loss_variance"] = table.groupby(keys, dropna=False)["loss"].transform(
        lambda loss: loss.rolling(window, min_periods=window).var()
    )
    table["loss_spread"] = table.groupby(["world", "arm", "step"])["loss"].transform("std")
    titles = {
        "loss": "loss", "grad_norm": "gradient norm", "loss_variance": f"variance of loss over {window} steps",
        "loss_spread": "SD of loss over runs",
    }  # fmt: skip
    return _over_training(data, titles, table=table)


def _over_training(data: ReportData, titles: dict[str, str], *, table: Frame | None = None) -> Figure | None:
    """One panel a column of the training log, worlds as rows."""
    log: Frame = data.training if table is None else table
    shown = [c for c in titles if c in log and log[c].notna().any()]
    if not shown:
        return None
    worlds = [w for w in data.worlds if (log["world"] == w).any()]
    across = len(worlds) if len(shown) == 1 else len(shown)
    figure, axes = new_figure(1 if len(shown) == 1 else len(worlds), across, height=2.4)
    for at_world, world in enumerate(worlds):
        for at, column in enumerate(shown):
            panel = axes[0, at_world] if len(shown) == 1 else axes[at_world, at]
            draw_runs(panel, log[log["world"] == world], column, data.arms)
            panel.set_title(f"{titles[column]}\n{world}", fontsize=9)
            panel.set_xlabel("training step")
    legend(figure, axes[0, 0])
    footnote(figure, _runs_text(log))
    return figure


def draw_runs(panel: Axes, table: Frame, column: str, arms: Sequence[str], *, linestyle: str = "-",
              label: str = "{arm}") -> None:  # fmt: skip
    """Each run thin, their mean thick and smoothed over a twentieth of the steps."""
    colour = plotstyle.colours(arms)
    for arm in arms:
        part = table[(table["arm"] == arm) & table[column].notna()]
        if part.empty:
            continue
        for _, run in part.groupby(RUN_KEYS, dropna=False):
            panel.plot(run["step"], run[column], color=colour[arm], alpha=0.22, linewidth=0.8, linestyle=linestyle)
        mean = part.groupby("step")[column].mean()
        window = max(1, len(mean) // 20)
        smooth = mean.rolling(window, center=True, min_periods=1).mean()
        panel.plot(smooth.index, smooth, color=colour[arm], linestyle=linestyle, label=label.format(arm=arm))


def decomposition(data: ReportData) -> Figure | None:
    """Cosines and norm ratio of Δ_total = Δ_ref + Δ_it, in four weightings of the vocabulary."""
    names = [f"{m}_{v}" for m in ("cos_total_ref", "cos_total_it", "norm_ratio") for v in VARIANTS]
    columns = {name: column for name in names if (column := _diagnostic(data, name))}
    if not columns:
        return None
    worlds = [w for w in data.worlds if (data.training["world"] == w).any()]
    figure, axes = new_figure(2 * len(worlds), len(VARIANTS), height=2.0, room=Room(title=0.28, below=0.42, gap=0.5))
    for at_world, world in enumerate(worlds):
        table = data.training[data.training["world"] == world]
        for at, (variant, title) in enumerate(zip(VARIANTS, VARIANT_TITLES, strict=True)):
            top, bottom = axes[2 * at_world, at], axes[2 * at_world + 1, at]
            for part, style in zip(("ref", "it"), LINESTYLES, strict=False):
                if column := columns.get(f"cos_total_{part}_{variant}"):
                    draw_runs(top, table, column, data.arms, linestyle=style, label=f"{{arm}}: cos(Δ_total, Δ_{part})")
            if column := columns.get(f"norm_ratio_{variant}"):
                draw_runs(bottom, table, column, data.arms)
                bottom.axhline(1, color=INK, linewidth=0.8, linestyle=":")
            else:
                empty(bottom)
            top.set(title=title, ylim=(-1.05, 1.05))
            bottom.set_xlabel("training step")
        axes[2 * at_world, 0].set_ylabel(f"{world}\ncosine")
        axes[2 * at_world + 1, 0].set_ylabel("‖Δ_ref‖ / ‖Δ_total‖")
    legend(figure, axes[0, 0], columns=4)
    footnote(figure, _runs_text(data.training))
    return figure


def _diagnostic(data: ReportData, name: str) -> str | None:
    found = [c for c in data.training.columns if c.split(".")[-1] == name and data.training[c].notna().any()]
    return found[0] if found else None


def _runs_text(table: Frame) -> str:
    runs = table.drop_duplicates(["world", "arm", *RUN_KEYS]).groupby(["world", "arm"]).size()
    return f"thin: each of {runs.max()} runs an arm; thick: their mean"
