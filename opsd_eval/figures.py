"""Every figure of the report: a function of :class:`~opsd_eval.report_data.ReportData` that returns a figure.

Rows of panels are worlds. Colour and marker are the arm, everywhere the same; each figure says its n and what its
bands are. A figure whose data was not measured returns ``None`` and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_eval import plotstyle
from opsd_eval.figures_training import decomposition, distance, markers_over_training, series, stability
from opsd_eval.plotstyle import INK, Room, empty, footnote, legend, new_figure
from opsd_eval.records import OUTCOMES, write_text
from opsd_eval.report_data import ReportData
from opsd_eval.scorecard_text import GAP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIVERSITY = ("distinct_answers", "answer_entropy", "distinct_paths", "embedding_clusters", "cluster_entropy", "vendi",
             "self_bleu")  # fmt: skip
STEPS = ("step_validity", "step_coverage", "first_error_position", "recovered_error_rate", "closure",
         "binding_consistency", "cross_sample_agreement", "early_answer_at_0", "early_answer_area")  # fmt: skip
MECHANISM = ("p_check", "accuracy_given_check", "step_accuracy", "p_wait_given_mismatch", "slip_rate")
MARKERS = ("marker_rate", "marker_rate_hedge", "marker_rate_interrupt", "marker_rate_branch", "marker_rate_verify",
           "marker_rate_uncertainty", "marker_concentration", "marker_productive_share")  # fmt: skip
MAX_PANELS = 5
MOST_FORESTS = 3


@dataclass(frozen=True)
class FigureSpec:
    """A figure's function, title and what a reader should know to read it."""

    draw: Callable[[ReportData], Figure | None]
    title: str
    caption: str


def accuracy(data: ReportData) -> Figure | None:
    """Accuracy, majority vote and coverage per arm and split, with intervals and chance."""
    votes = [found for prefix in ("maj@", "pass@") if (found := _largest(data, prefix))]
    return _strips(data, list(dict.fromkeys([_largest(data, "avg@") or "pass@1", *votes])))


def diversity(data: ReportData) -> Figure | None:
    """Distinct answers, paths and clusters at equal n, over all samples and over correct ones."""
    return _strips(data, [*DIVERSITY, *(f"{m}_correct" for m in DIVERSITY)])


def steps(data: ReportData) -> Figure | None:
    """Components of step consistency."""
    return _strips(data, STEPS)


def mechanism(data: ReportData) -> Figure | None:
    """What the arms do inside their completions (testbed worlds)."""
    return _strips(data, MECHANISM)


def markers(data: ReportData) -> Figure | None:
    """Epistemic markers at the reported checkpoint."""
    return _strips(data, MARKERS)


def _largest(data: ReportData, prefix: str) -> str | None:
    """The member of a family with the largest k that every world and split has."""
    rows = [r for r in data.rows if r["contrast"] == "level"]
    measured: dict[str, set[tuple[str, str]]] = {}
    for r in rows:
        if r["metric"].startswith(prefix) and r["metric"][len(prefix) :].isdigit():
            measured.setdefault(r["metric"], set()).add((r["world"], r["split"]))
    everywhere = {(r["world"], r["split"]) for r in rows}
    names = [name for name, places in measured.items() if places == everywhere]
    return max(names, key=lambda m: int(m[len(prefix) :]), default=None)


def _strips(data: ReportData, metrics: Sequence[str]) -> Figure | None:
    """One panel a metric: arms side by side within each split, interval bars, chance as a dotted line."""
    found: dict[str, set[float]] = {}
    for r in data.rows:
        if r["contrast"] == "level" and r["metric"] in metrics and r["estimate"] == r["estimate"]:
            found.setdefault(r["metric"], set()).add(round(r["estimate"], 12))
    shown = [m for m in metrics if len(found.get(m, ())) > 1]
    constant = [f"{m} ({next(iter(v)):g})" for m, v in found.items() if len(v) == 1]
    if not shown:
        return None
    titles = shown if len(data.worlds) == 1 else [*shown, *data.worlds]
    panel_width = max(0.9 + 0.75 * len(data.splits), plotstyle.title_room(titles))
    lines = -(-len(shown) // max(1, min(MAX_PANELS, int(9.0 / panel_width))))
    across = -(-len(shown) // lines)
    width = min(10.0, 1.0 + across * panel_width)
    room = Room(left=0.6, title=0.28 if len(data.worlds) == 1 else 0.42, below=0.3)
    figure, axes = new_figure(len(data.worlds) * lines, across, width=max(6.5, width), height=2.2, room=room)
    for at_world, world in enumerate(data.worlds):
        for at, metric in enumerate(shown):
            panel = axes[at_world * lines + at // across, at % across]
            _strip(panel, data, world, metric)
            panel.set_title(metric if len(data.worlds) == 1 else f"{metric}\n{world}", fontsize=9)
        for at in range(len(shown), lines * across):
            axes[at_world * lines + at // across, at % across].set_axis_off()
    legend(figure, axes[0, 0])
    same = f"\nthe same everywhere, not drawn: {', '.join(constant)}" if constant else ""
    footnote(figure, _n_text(data) + same)
    return figure


def _strip(panel: Axes, data: ReportData, world: str, metric: str) -> None:
    colour, marker = plotstyle.colours(data.arms), plotstyle.markers(data.arms)
    drawn = False
    for at_split, split in enumerate(data.splits):
        for at_arm, arm in enumerate(data.arms):
            row = data.level_row(world, split, arm, metric)
            if row is None or row["estimate"] != row["estimate"]:
                continue
            drawn = True
            x = at_split + 0.18 * (at_arm - (len(data.arms) - 1) / 2)
            bars = [[row["estimate"] - row["low"]], [row["high"] - row["estimate"]]]
            panel.errorbar(x, row["estimate"], yerr=bars, color=colour[arm], marker=marker[arm], capsize=2.5,
                           linestyle="none", label=arm, elinewidth=1.4)  # fmt: skip
            if row["chance"] is not None and row["chance"] == row["chance"]:
                panel.hlines(row["chance"], at_split - 0.4, at_split + 0.4, color=INK, linestyle=":", linewidth=1)
    if not drawn:
        return empty(panel, "not applicable")
    panel.set_xticks(range(len(data.splits)), data.splits)
    panel.set_xlim(-0.6, len(data.splits) - 0.4)
    panel.grid(axis="x", visible=False)
    return None


def pass_at_k(data: ReportData) -> Figure | None:
    """Unbiased pass@k against k on a logarithmic axis, with bands."""
    ks = sorted({int(r["metric"][5:]) for r in data.rows if r["metric"][:5] == "pass@" and r["metric"][5:].isdigit()})
    if len(ks) < 2:
        return None
    figure, panels = plotstyle.place_figure(data.worlds, data.splits, height=2.8, room=Room(title=0.3))
    colour, marker = plotstyle.colours(data.arms), plotstyle.markers(data.arms)
    for (world, split), panel in panels.items():
        for arm in data.arms:
            found = [(k, row) for k in ks if (row := data.level_row(world, split, arm, f"pass@{k}"))]
            _curve(panel, found, color=colour[arm], marker=marker[arm], label=arm)
        chance = [(k, r["chance"]) for k, r in found if r["chance"] is not None] if found else []
        panel.plot([k for k, _ in chance], [c for _, c in chance], color=INK, linestyle=":", linewidth=1,
                   label="chance")  # fmt: skip
        panel.set(title=f"{world} · {split}", xlabel="k", ylim=(0, 1.02))
        panel.set_xscale("log", base=2)
        panel.set_xticks(ks, [str(k) for k in ks])
    first = next(iter(panels.values()))
    first.set_ylabel("pass@k")
    legend(figure, first)
    footnote(figure, _n_text(data))
    return figure


def _curve(panel: Axes, found: Sequence[tuple[float, Mapping[str, Any]]], **look: Any) -> None:
    x = [k for k, _ in found]
    panel.plot(x, [r["estimate"] for _, r in found], markersize=4.5, **look)
    low, high = [r["low"] for _, r in found], [r["high"] for _, r in found]
    panel.fill_between(x, low, high, color=look["color"], alpha=0.16, linewidth=0)


def outcomes(data: ReportData) -> Figure | None:
    """Shares of the six outcomes per arm; they sum to one, and right is accuracy."""
    paths = {s.path for s in data.reported}
    if data.outcomes.empty:
        return None
    table = data.outcomes[data.outcomes["path"].isin(map(str, paths))]
    shares = table.groupby(["world", "split", "arm", "outcome"])["share"].sum()
    runs = table.drop_duplicates("path").groupby(["world", "split", "arm"]).size()
    names = {arm: plotstyle.short(arm) for arm in data.arms}
    labels = plotstyle.label_room(list(names.values()))
    room = Room(left=labels, gap=labels, title=0.3, below=0.32)
    height = 0.7 + 0.32 * len(data.arms)
    figure, panels = plotstyle.place_figure(data.worlds, data.splits, height=height, room=room)
    for (world, split), panel in panels.items():
        present = [arm for arm in data.arms if (world, split, arm) in runs.index]
        left = dict.fromkeys(present, 0.0)
        for name in OUTCOMES:
            cells = [(world, split, arm) for arm in present]
            widths = [float(shares.get((*cell, name), 0.0)) / float(runs[cell]) for cell in cells]
            panel.barh([names[arm] for arm in present], widths, left=list(left.values()), height=0.68,
                       color=plotstyle.OUTCOME_COLOURS[name], label=name.replace("_", " "))  # fmt: skip
            left = {a: left[a] + w for a, w in zip(present, widths, strict=True)}
        panel.set(title=f"{world} · {split}", xlim=(0, 1))
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
    legend(figure, next(iter(panels.values())))
    footnote(figure, f"share of completions, mean over problems; {_n_text(data, interval=False)}")
    return figure


def contrasts(data: ReportData) -> Figure | None:
    """Paired differences of the primary metrics with intervals, the margin shaded."""
    rows = [r for r in data.rows if r["contrast"] != "level" and r["primary"]]
    return _forest(data, rows, list(dict.fromkeys(r["metric"] for r in rows)), "difference, paired by problem")


def gap(data: ReportData) -> Figure | None:
    """Generalization gap: gain in distribution minus gain out of it."""
    rows = [r for r in data.rows if r["contrast"] != "level" and r["metric"].startswith(GAP)]
    return _forest(data, rows, list(dict.fromkeys(r["metric"] for r in rows)), "difference in differences")


def _forest(data: ReportData, rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], label: str) -> Figure | None:
    if not rows:
        return None
    splits = list(dict.fromkeys(r["split"] for r in rows))
    names = [(contrast, split) for contrast in dict.fromkeys(r["contrast"] for r in rows) for split in splits]
    labels = [plotstyle.short(f"{c.replace('-', ' − ', 1)} · {s}") for c, s in names]
    room = Room(left=plotstyle.label_room(labels), gap=0.3, below=0.32)
    height = 0.8 + 0.22 * len(names)
    across = min(len(metrics), MOST_FORESTS)
    lines = -(-len(metrics) // across)
    figure, axes = new_figure(len(data.worlds) * lines, across, height=height, room=room)
    colour, marker = plotstyle.colours(data.arms), plotstyle.markers(data.arms)
    for at_world, world in enumerate(data.worlds):
        for at in range(len(metrics), lines * across):
            axes[at_world * lines + at // across, at % across].set_axis_off()
        for at_metric, metric in enumerate(metrics):
            panel = axes[at_world * lines + at_metric // across, at_metric % across]
            found = [r for r in rows if (r["world"], r["metric"]) == (world, metric)]
            if margins := {r["margin"] for r in found if r["margin"]}:
                panel.axvspan(-max(margins), max(margins), color=INK, alpha=0.07, linewidth=0)
            panel.axvline(0, color=INK, linewidth=0.9)
            for r in found:
                bars = [[r["difference"] - r["difference_low"]], [r["difference_high"] - r["difference"]]]
                panel.errorbar(r["difference"], names.index((r["contrast"], r["split"])), xerr=bars, capsize=2.5,
                               color=colour[r["arm"]], marker=marker[r["arm"]], linestyle="none")  # fmt: skip
            panel.set_yticks(range(len(names)), [""] * len(names) if at_metric % across else labels)
            panel.set(title=f"{metric.removeprefix(GAP)}\n{world}", ylim=(len(names) - 0.4, -0.6))
            panel.locator_params(axis="x", nbins=5)
    shaded = "; shaded: margin" if any(r["margin"] for r in rows) else ""
    footnote(figure, f"{label}{shaded} · {_n_text(data)}")
    return figure


def _n_text(data: ReportData, *, interval: bool = True) -> str:
    used = sorted({r["n_problems"] for r in data.rows if r["contrast"] == "level" and r["primary"]})
    seeds = sorted({r["n_seeds"] for r in data.rows if r["contrast"] == "level" and r["arm"] != data.arms[0]})
    text = "n = " + ("–".join(dict.fromkeys([str(used[0]), str(used[-1])])) if used else "?") + " problems a split"
    text += f" × {data.draws} draws" if data.draws else ""
    text += f" × {seeds[-1]} runs an arm" if seeds and seeds[-1] > 1 else ""
    scopes = {r["scope"] for r in data.rows if r["contrast"] != "level"}
    over = "seeds and problems" if scopes == {"method"} else "problems"
    return text + (f"; bars and bands: {data.settings.level:.0%} interval over {over}" if interval else "")


FIGURES: dict[str, FigureSpec] = {
    "contrasts": FigureSpec(contrasts, "What changed", "Differences of the primary metrics; the band is the margin "
                            "within which a difference counts as preserved."),
    "accuracy": FigureSpec(accuracy, "Accuracy", "Mean over draws, majority vote and coverage; dotted: guessing."),
    "pass_at_k": FigureSpec(pass_at_k, "pass@k", "Unbiased; a flat curve far below base is lost support."),
    "outcomes": FigureSpec(outcomes, "Where completions end", "Each completion has one outcome, the first that "
                           "applies from left to right."),
    "mechanism": FigureSpec(mechanism, "Mechanism", "What the completions do, whatever their answer. Fewer checks "
                            "are harmful only where accuracy needs them."),
    "steps": FigureSpec(steps, "Step consistency", "Components, judged by arithmetic alone and never merged."),
    "diversity": FigureSpec(diversity, "Diversity", "At equal numbers of samples; wrong answers also count as "
                            "distinct unless the name ends in _correct."),
    "gap": FigureSpec(gap, "Generalization gap", "Right of 0: more gained, or less lost, in distribution than out."),
    "markers": FigureSpec(markers, "Epistemic markers", "Per 1,000 tokens. A fall is not harm by itself."),
    "series": FigureSpec(series, "Checkpoints", "Every evaluated checkpoint; a cross marks the onset of collapse, the "
                         "first from which accuracy stays below base by more than the margin."),
    "markers_over_training": FigureSpec(markers_over_training, "Markers and length over training",
                                        "On the training rollouts: thin lines are runs, thick ones their mean."),
    "distance": FigureSpec(distance, "Distance travelled", "KL of the student from base on its own samples: equal "
                           "steps are not equal moves."),
    "decomposition": FigureSpec(decomposition, "Decomposition of the teaching signal", "Δ_total = Δ_ref + Δ_it. Plain "
                                "statistics are dominated by the tail of the vocabulary; compare the variants."),
    "stability": FigureSpec(stability, "Training stability", "Loss, its variance in a moving window, gradient norm "
                            "before clipping, and the spread of the loss over runs."),
}  # fmt: skip


def draw_all(data: ReportData) -> dict[str, str]:
    """Every figure that has data, as SVG documents by name."""
    drawn = {}
    with plotstyle.style():
        for name, spec in FIGURES.items():
            figure = spec.draw(data)
            if figure is not None:
                drawn[name] = plotstyle.to_svg(figure)
    return drawn


def save_figures(drawn: Mapping[str, str], out: Path | str) -> list[Path]:
    """Write drawn figures as ``NAME.svg``."""
    paths = [Path(out) / f"{name}.svg" for name in drawn]
    for path, svg in zip(paths, drawn.values(), strict=True):
        write_text(path, svg)
    return paths
