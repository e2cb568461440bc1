"""The scorecard as text: Markdown for the report folder, and a compact form for the terminal."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

LEVEL = "level"
GAP = "generalization_gap_"
DASH = "–"
#: Beside the primary metrics the terminal shows one line of each other family: steps, diversity, markers.
ALSO = ("step_validity", "distinct_answers", "embedding_clusters", "marker_rate")
FOOTNOTE = (
    "± is half the width of the {level:.0%} interval over problems. preserved: the interval of the difference lies "
    "inside the margin; improved, degraded: it excludes 0 (differs, where no direction is better); undecided: neither "
    "(the report gives the smallest effect it could have seen)."
)


def number(value: Any, *, signed: bool = False) -> str:
    """A figure for reading: three decimals below 10, one from there on; missing is a dash."""
    if value is None or value != value:
        return DASH
    text = f"{abs(value):.3f}" if abs(value) < 9.9995 else f"{abs(value):,.1f}"
    zero = not any(digit in text for digit in "123456789")
    sign = "−" if value < 0 and not zero else "+" if signed and not zero else ""
    return sign + text


def interval(low: Any, high: Any, *, signed: bool = False) -> str:
    """``[low, high]``, or nothing where there is no interval."""
    if low is None or high is None or low != low or high != high:
        return ""
    return f"[{number(low, signed=signed)}, {number(high, signed=signed)}]"


def with_half_width(value: Any, low: Any, high: Any, *, signed: bool = False) -> str:
    """``value±half width``; an interval that is not symmetric is written ``value+a/−b``."""
    text = number(value, signed=signed)
    if value is None or low is None or high is None or not (low == low and high == high):
        return text
    up, down = number(high - value), number(value - low)
    return f"{text}±{up}" if up == down else f"{text}+{up}/−{down}"


def worlds_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Worlds in the order of the rows."""
    return list(dict.fromkeys(row["world"] for row in rows))


def grid(rows: Sequence[Mapping[str, Any]], *, world: str, primary: bool) -> list[dict[str, Any]]:
    """Rows of one world regrouped for a table: one entry a (split, metric) with its levels and contrasts."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["world"] == world and (row["primary"] or not primary):
            head = {key: row[key] for key in ("split", "metric", "better")}
            entry = entries.setdefault((row["split"], row["metric"]), {**head, "levels": {}, "contrasts": {}})
            if row["contrast"] == LEVEL:
                entry["levels"][row["arm"]] = row
            else:
                entry["contrasts"][row["contrast"]] = row
    return list(entries.values())


def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Arms with a level, and contrasts, in the order of the rows."""
    arms = list(dict.fromkeys(row["arm"] for row in rows if row["contrast"] == LEVEL))
    contrasts = list(dict.fromkeys(row["contrast"] for row in rows if row["contrast"] != LEVEL))
    return arms, contrasts


def minus(contrast: str) -> str:
    """``standard-base`` as it is read: ``standard − base``."""
    return contrast.replace("-", " − ", 1)


def shown_verdict(row: Mapping[str, Any]) -> str:
    """The row's verdict; ``differs`` for an interval off 0 of a metric that has no better direction."""
    low, high = row["difference_low"], row["difference_high"]
    off_zero = low is not None and high is not None and (low > 0 or high < 0)
    return "differs" if row["verdict"] == "undecided" and row["better"] == "neither" and off_zero else row["verdict"]


# --- Markdown ---------------------------------------------------------------------------------------------


def markdown(document: Mapping[str, Any], about: Mapping[str, str]) -> str:
    """``scorecard.md``: per world what is built in, the primary metrics, then every metric."""
    rows = document["rows"]
    level = document["config"].get("level", 0.95)
    lines = ["# Scorecard", "", *_reading(rows, level), ""]
    for world in worlds_of(rows):
        lines += [f"## {_cell(world)}", ""]
        if about.get(world):
            lines += [f"Built in: {about[world]}", ""]
        lines += ["### Primary metrics", "", *_table(grid(rows, world=world, primary=True), rows), ""]
        rest = [entry for entry in grid(rows, world=world, primary=False) if not is_primary(entry)]
        lines += ["### Every other metric (exploratory, not adjusted)", "", *_table(rest, rows), ""] if rest else []
    return "\n".join(lines)


def _reading(rows: Sequence[Mapping[str, Any]], level: float) -> list[str]:
    scopes = {row["scope"] for row in rows if row["contrast"] != LEVEL}
    text = [
        f"Each cell: estimate and {level:.0%} interval. A level is the mean over problems; n is problems used, with "
        "those where the metric is undefined after a slash. A contrast is paired by problem, with its verdict against "
        "the margin fixed beforehand; p is from a sign-flip test, Holm-adjusted within contrast and split over the "
        "primary metrics. mde: the smallest difference this many problems and seeds would have detected.",
        "",
    ]
    if "checkpoints" in scopes:
        text += [
            "**These checkpoints only.** Intervals here cover the choice of problems. A verdict on a method needs at "
            "least 3 base seeds and an interval that crosses seeds and problems.",
        ]
    if "method" in scopes:
        text += ["**Method.** Differences over 3 or more base seeds have intervals that cross seeds and problems."]
    return text


def is_primary(entry: Mapping[str, Any]) -> bool:
    """Whether a :func:`grid` entry is of a primary metric."""
    return any(row["primary"] for row in [*entry["levels"].values(), *entry["contrasts"].values()])


def _table(entries: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    arms, contrasts = columns(rows)
    head = ["split", "metric", "n", *arms, *map(minus, contrasts)]
    lines = [_line(head), _line(["---"] * len(head))]
    for entry in entries:
        cells = [entry["split"], entry["metric"], counts(entry)]
        cells += [_level_cell(entry["levels"].get(arm)) for arm in arms]
        cells += [contrast_text(entry["contrasts"].get(contrast)) for contrast in contrasts]
        lines.append(_line(cells))
    return lines


def counts(entry: Mapping[str, Any]) -> str:
    """Problems used, and after a slash those where the metric is undefined."""
    found = [*entry["levels"].values(), *entry["contrasts"].values()]
    used = sorted({row["n_problems"] for row in found})
    dropped = max(row["n_dropped"] or 0 for row in found)
    text = str(used[0]) if len(used) == 1 else f"{used[0]}–{used[-1]}"
    return f"{text}/{dropped}" if dropped else text


def _level_cell(row: Mapping[str, Any] | None) -> str:
    return DASH if row is None else f"{number(row['estimate'])} {interval(row['low'], row['high'])}".strip()


def contrast_text(row: Mapping[str, Any] | None) -> str:
    """A contrast in one cell: difference, interval, verdict, p and, when undecided, the detectable effect."""
    if row is None:
        return DASH
    limits = interval(row["difference_low"], row["difference_high"], signed=True)
    p = row["p_value"] if row["p_adjusted"] is None else row["p_adjusted"]
    verdict = shown_verdict(row)
    parts = [number(row["difference"], signed=True), limits, f"**{verdict}**", p_text(p)]
    if verdict == "undecided":
        parts.append(f"(mde {number(row['mde'])})")
    return " ".join(part for part in parts if part)


def p_text(p: float | None) -> str:
    """``p .012``, or ``p < .001``; nothing where there is none."""
    if p is None or p != p:
        return ""
    return "p < .001" if p < 0.001 else f"p {p:.3f}".replace("0.", ".")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return str(text).replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


# --- terminal ---------------------------------------------------------------------------------------------


def terminal(document: Mapping[str, Any], about: Mapping[str, str]) -> str:
    """The primary metrics of every world in fixed-width columns, each world headed by what is built in.

    Below those of each split stands one line of each other family (``ALSO``), and at the end the generalization gaps.
    """
    rows = document["rows"]
    blocks = []
    for world in worlds_of(rows):
        lines = [printable(world), *_wrapped(about.get(world, ""))]
        for table in _terminal_tables(grid(rows, world=world, primary=False), *columns(rows)):
            lines += _aligned(table)
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *_foot(document)])


def _terminal_tables(
    entries: Sequence[Mapping[str, Any]], arms: Sequence[str], contrasts: Sequence[str]
) -> Iterator[list[list[str]]]:
    """One table a split, then one for each pair of splits with a gap."""
    primary = {entry["metric"] for entry in entries if is_primary(entry)}
    places = [(_also(entry["metric"], primary), entry) for entry in entries]
    shown = [(place, entry) for place, entry in places if place < len(ALSO)]
    for split in dict.fromkeys(entry["split"] for _, entry in shown):
        here = [e for _, e in sorted((pair for pair in shown if pair[1]["split"] == split), key=lambda pair: pair[0])]
        head = [split, *arms, *map(minus, contrasts)]
        yield [head, *([e["metric"], *_terminal_cells(e, arms, contrasts)] for e in here)]
    gaps = [(e["metric"].removeprefix(GAP), e) for e in entries if e["metric"].startswith(GAP)]
    for split in dict.fromkeys(entry["split"] for _, entry in gaps):
        here = [(name, e) for name, e in gaps if e["split"] == split and name in {*primary, *ALSO}]
        head = [f"gap {split}", *map(minus, contrasts)]
        yield [head, *([name, *_terminal_cells(e, (), contrasts)] for name, e in here)]


def _also(metric: str, primary: Container[str]) -> int:
    """Where a metric stands in its split: primary ones first, then as listed in ``ALSO``; others are not shown."""
    return -1 if metric in primary else ALSO.index(metric) if metric in ALSO else len(ALSO)


def _foot(document: Mapping[str, Any]) -> list[str]:
    """How to read the terminal's scorecard, as one paragraph."""
    rows = document["rows"]
    texts = [FOOTNOTE.format(level=document["config"].get("level", 0.95))]
    gaps = any(row["metric"].startswith(GAP) for row in rows)
    also = [name for name in ALSO if any(row["metric"] == name and not row["primary"] for row in rows)]
    if also or gaps:
        texts.append(f"Not primary, and not adjusted: {', '.join([*also, *(['gaps'] if gaps else [])])}.")
    if gaps:
        texts.append("gap a-b: the change in a minus the change in b, a difference in differences.")
    if {row["scope"] for row in rows if row["contrast"] != LEVEL} == {"checkpoints"}:
        texts.append("Fewer than 3 base seeds: each line is a statement about these checkpoints, not about a method.")
    return ["\n".join(line for text in texts for line in _wrapped(text, indent=""))]


def _terminal_cells(entry: Mapping[str, Any], arms: Sequence[str], contrasts: Sequence[str]) -> list[str]:
    cells = []
    for row in (entry["levels"].get(arm) for arm in arms):
        cells.append(DASH if row is None else with_half_width(row["estimate"], row["low"], row["high"]))
    for row in (entry["contrasts"].get(contrast) for contrast in contrasts):
        if row is None:
            cells.append(DASH)
        else:
            keys = ("difference", "difference_low", "difference_high")
            cells.append(f"{with_half_width(*(row[k] for k in keys), signed=True)} {shown_verdict(row)}")
    return cells


def _wrapped(text: str, *, indent: str = "  ") -> list[str]:
    import textwrap

    return textwrap.wrap(printable(text), 110, initial_indent=indent, subsequent_indent=indent)


def printable(text: str) -> str:
    """The text without control characters, so that a name from a log cannot steer the terminal."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    clean = [[printable(cell) for cell in row] for row in table]
    widths = [max(len(row[at]) for row in clean) for at in range(len(clean[0]))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in clean]
