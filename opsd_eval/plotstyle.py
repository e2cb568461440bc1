"""How figures look: one colour-blind-safe colour and marker an arm, quiet axes, SVG that follows the page's theme."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opsd_eval.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette. The baseline is grey, so that colour always means "trained".
ARM_COLOURS = {"base": "#767d85", "standard": "#d55e00", "purified": "#0072b2"}
MORE_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#5b4b8a")
MARKERS = ("s", "o", "D", "^", "v", "P", "X", "h", "*")
# Paul Tol's muted palette, by outcome.
OUTCOME_COLOURS = {
    "right": "#44aa99", "loop": "#882255", "truncated": "#cc6677", "off_language": "#aa4499", "no_answer": "#ddcc77",
    "wrong": "#b8bcc2",
}  # fmt: skip
INK, GRID = "#24292e", "#d8dce1"
HEAD, FOOT, RIGHT = 0.32, 0.34, 0.15  # inches for the legend, the footnote, and the right edge
MOST_ACROSS = 4
PAGE_SCALE = 1.5  # CSS pixels on the page for each point of the drawing
LINESTYLES = ("-", "--", ":", "-.")
# On the page these colours become CSS variables, so that one drawing serves light and dark.
THEMED = {INK: "ink", GRID: "line"} | {c: f"arm-{name}" for name, c in ARM_COLOURS.items()}
RC: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9.5, "axes.titlesize": 10.5,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 9.5, "axes.edgecolor": GRID,
    "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6, "legend.frameon": False,
    "legend.fontsize": 9, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "svg.fonttype": "none", "svg.hashsalt": "opsd", "lines.linewidth": 1.8, "lines.markersize": 5.5,
    "text.parse_math": False, "axes.titley": 1.0, "axes.titlepad": 5,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this context: our settings, no display, and no figure left open."""
    import matplotlib

    with matplotlib.rc_context(RC):
        yield


@dataclass(frozen=True)
class Room:
    """Inches around panels: ``left`` of the first column, ``gap`` between columns, ``title`` above, ``below`` each."""

    left: float = 0.8
    gap: float = 0.65
    title: float = 0.42
    below: float = 0.5


def new_figure(
    n_rows: int, n_columns: int, *, width: float = 10.0, height: float = 2.6, room: Room | None = None
) -> tuple[Figure, Any]:
    """A figure and its (n_rows, n_columns) array of axes; ``height`` inches a row. No pyplot, no global state.

    Panels are placed by arithmetic, not by a layout engine, which would draw every figure twice to measure it.
    """
    import numpy as np
    from matplotlib.figure import Figure

    room = room or Room()
    total = HEAD + n_rows * height + FOOT
    across = (width - room.left - RIGHT - (n_columns - 1) * room.gap) / n_columns
    figure = Figure(figsize=(width, total))
    axes = np.empty((n_rows, n_columns), dtype=object)
    for row in range(n_rows):
        bottom = FOOT + (n_rows - 1 - row) * height + room.below
        for column in range(n_columns):
            x = room.left + column * (across + room.gap)
            place = (x / width, bottom / total, across / width, (height - room.title - room.below) / total)
            axes[row, column] = figure.add_axes(place)
    return figure, axes


def place_figure(
    worlds: Sequence[str], splits: Sequence[str], *, height: float, room: Room
) -> tuple[Figure, dict[tuple[str, str], Any]]:
    """A figure with one panel for each world and split: a row a world; the splits of a single world in rows of four."""
    across = len(splits) if len(worlds) > 1 else min(len(splits), MOST_ACROSS)
    lines = len(worlds) if len(worlds) > 1 else -(-len(splits) // across)
    figure, axes = new_figure(lines, across, height=height, room=room)
    places = [(world, split) for world in worlds for split in splits]
    for spare in axes.flat[len(places) :]:
        spare.set_axis_off()
    return figure, dict(zip(places, axes.flat, strict=False))


def label_room(labels: Sequence[str]) -> float:
    """Inches that the longest of these tick labels takes, with its tick."""
    return 0.25 + 0.068 * max(map(len, labels), default=0)


def title_room(titles: Sequence[str]) -> float:
    """Inches from one panel to the next that let the longest of these small bold titles stand."""
    return 0.15 + 0.09 * max(map(len, titles), default=0)


def short(label: str, limit: int = 44) -> str:
    """A label of at most ``limit`` characters."""
    return label if len(label) <= limit else label[: limit - 1] + "…"


def colours(arms: Sequence[str]) -> dict[str, str]:
    """The colour of each arm: fixed for known names; elsewhere the first arm is the baseline, then in turn."""
    known = {} if set(arms) & set(ARM_COLOURS) else dict(zip(arms, ARM_COLOURS.values(), strict=False))
    spare = itertools.cycle(MORE_COLOURS)
    return {arm: ARM_COLOURS.get(arm) or known.get(arm) or next(spare) for arm in arms}


def markers(arms: Sequence[str]) -> dict[str, str]:
    """A marker an arm, so that no figure needs colour to be read."""
    return {arm: MARKERS[at % len(MARKERS)] for at, arm in enumerate(arms)}


def footnote(figure: Figure, text: str) -> None:
    """What n and the bands are, at the bottom of the figure."""
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 0.1 / height, text, fontsize=8, color=INK, alpha=0.75, va="bottom")


def legend(figure: Figure, axes: Axes, *, columns: int = 6) -> None:
    """One legend above all panels, from the entries of one of them (each name once)."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    if named:
        width, height = figure.get_size_inches()
        corner = (0.1 / width, 1 - 0.04 / height)
        figure.legend(named.values(), [short(name) for name in named], loc="upper left", bbox_to_anchor=corner,
                      borderaxespad=0, ncols=columns, handlelength=2.2)  # fmt: skip


def empty(axes: Axes, text: str = "not measured") -> None:
    """A panel without data says so."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", alpha=0.6, fontsize=8.5)
    axes.set_xticks([])
    axes.set_yticks([])


def to_svg(figure: Figure) -> str:
    """The figure as an SVG document: same bytes for the same figure, no metadata, text kept as text.

    Names from a log may hold anything: what XML forbids, and what reorders a line, becomes a picture or a name.
    """
    buffer = io.StringIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # only measured with it: text stays text
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return visible(buffer.getvalue())


def inline_svg(document: str, *, prefix: str) -> str:
    """An SVG document as an element for our page: ids made unique, theme colours as CSS variables, page's font."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', _opening, svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bd="[^"]*"', _short_path, svg)
    for colour, name in THEMED.items():
        svg = re.sub(rf"(?<=: ){colour}\b", f"var(--{name})", svg)
    svg = re.sub(r"font-family: '[^;\"]*; ?", "", svg)
    return re.sub(r"(\d(?:px)?) '[^;\"]*", r"\1 var(--sans)", re.sub(r">\s+<", "><", svg))


def _opening(match: re.Match[str]) -> str:
    width = float(match[1].split()[2]) * PAGE_SCALE
    return f'<svg class="plot" viewBox="{match[1]}" style="max-width: {width:.0f}px" role="img">'


def _short_path(path: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(path[0].split()))
