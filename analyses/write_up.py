"""The tables of ``docs/study.md`` and ``analyses/README.md``, made from the artefacts and put between markers.

``python -m analyses.study docs`` fills every ``<!-- table:NAME:begin -->`` … ``<!-- table:NAME:end -->``; a test
holds the committed pages to the committed results.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from analyses.results import Study
from opsd_eval.names import lookup
from opsd_eval.records import write_text
from opsd_eval.tables import BASE, Frame

PAGES = ("docs/study.md", "analyses/README.md")
MARK = re.compile(r"(<!-- table:(?P<name>[\w-]+):begin -->\n).*?(<!-- table:(?P=name):end -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: (?P<key>[^>]*?) -->).*?(<!-- /value -->)", re.DOTALL)
MECHANISM = ("p_check", "accuracy_given_check", "step_accuracy", "p_wait_given_mismatch", "slip_rate", "marker_rate",
             "completion_tokens", "distinct_paths")  # fmt: skip


def fill(page: str, study: Study) -> str:
    """The page with every marked table and number made anew; one that cannot be made yet says so."""
    page = VALUE.sub(lambda found: f"{found[1]}{quoted(found['key'], study)}{found[3]}", page)
    return MARK.sub(lambda found: f"{found[1]}{table(found['name'], study)}{found[3]}", page)


def quoted(key: str, study: Study) -> str:
    """One number of an artefact with its interval, for the running text.

    ``ablation_table world=slips split=id metric=avg@8 contrast=standard-base difference`` names file, row and column.
    """
    source, *words = shlex.split(key)
    chosen = dict(word.split("=", 1) for word in words if "=" in word)
    column = next((word for word in words if "=" not in word), "difference")
    path = study.folder / f"{source}.csv"
    if not path.exists():
        return "(not run yet)"
    frame = _read(str(path), path.stat().st_mtime_ns)
    for name, wanted in chosen.items():
        if name not in frame:
            raise ValueError(f"value {key!r}: {source}.csv has no column {name!r}; it has {', '.join(frame.columns)}")
        frame = frame[frame[name].astype(str) == wanted]
    if len(frame) > 1:
        raise ValueError(f"value {key!r} names {len(frame)} rows of {source}.csv; add column=value until one is left")
    if frame.empty:
        return "(not run yet)"
    low, high = (f"{column}_{side}" if f"{column}_{side}" in frame else side for side in ("low", "high"))
    return interval(frame.iloc[0], column, low, high, sign=column != "estimate")


@lru_cache(maxsize=32)
def _read(path: str, stamp: int) -> Frame:
    import pandas as pd

    return pd.read_csv(path, comment="#", keep_default_na=True)


def write(study: Study, root: Path) -> list[Path]:
    """Fill the committed pages in place; returns those that changed."""
    changed = []
    for name in PAGES:
        path = root / name
        old = path.read_text(encoding="utf-8")
        if (new := fill(old, study)) != old:
            write_text(path, new)
            changed.append(path)
    return changed


def table(name: str, study: Study) -> str:
    """One table as Markdown, with a line that says cells done of planned."""
    from analyses.write_up_targets import TABLES as TARGET_TABLES

    make, source = lookup("table", name, {**TABLES, **TARGET_TABLES})
    if not source:
        return f"\n{make(study)}\n"
    path = study.folder / f"{source}.csv"
    if not path.exists():
        return f"\n*No finished cell yet for this table (`{source}.csv`).*\n\n"
    import pandas as pd

    with path.open(encoding="utf-8") as file:
        state = file.readline().lstrip("# ").strip()
        rows = file.readline().strip('" \n')
    body = make(pd.read_csv(path, comment="#")) if rows else "*No row yet.*\n"
    return f"\n{body}\n*From [{source}.csv](../results/{study.config.name}/{source}.csv): {state}.*\n\n"


# --- from CSV to Markdown -----------------------------------------------------------------------------------


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of text as a Markdown table; none gives a sentence."""
    if not rows:
        return "*No row.*\n"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row.get(column, "") for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def number(value: Any, digits: int = 3, *, sign: bool = False) -> str:
    """A number without a leading zero, as ``.807`` or ``+.012``; a dash where it is undefined."""
    if value is None or value != value:
        return "–"
    text = f"{float(value):{'+' if sign else ''}.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def interval(row: Mapping[str, Any], value: str, low: str, high: str, *, digits: int = 3, sign: bool = False) -> str:
    """``.807 [.751, .863]``; without an interval the value says so."""
    shown = number(row[value], digits, sign=sign)
    if row[low] != row[low]:
        return f"{shown} [no interval]" if row[value] == row[value] else shown
    return f"{shown} [{number(row[low], digits, sign=sign)}, {number(row[high], digits, sign=sign)}]"


def change(row: Mapping[str, Any], digits: int = 3) -> str:
    """A difference with its interval."""
    return interval(row, "difference", "difference_low", "difference_high", digits=digits, sign=True)


def ablation(frame: Frame) -> str:
    """Accuracy per world and split: the base's level and the three contrasts with verdicts."""
    rows = []
    shown = frame[frame["metric"].str.fullmatch(r"avg@\d+")]
    for (world, split), part in shown.groupby(["world", "split"], sort=False):
        by = part.set_index(["contrast", "arm"])
        level = by.loc[("level", BASE)]
        row = {"world": world, "split": split, "base": interval(level, "estimate", "low", "high")}
        row |= {"standard − base": "–", "purified − base": "–", "purified − standard": "–", "problems (dropped)": ""}
        for label in list(row)[3:6]:
            key = (label.replace(" − ", "-"), label.split(" ")[0])
            if key in by.index:
                found = by.loc[key]
                row[label] = f"{change(found)} {found['verdict']}"
                row["problems (dropped)"] = used(found)
                row["runs an arm"] = str(int(found["n_seeds"]))
                row["speaks of"] = found["scope"]
        rows.append(row)
    return markdown(rows)


def mechanism(frame: Frame) -> str:
    """What the arms do inside their completions, in distribution: the base's level and both changes."""
    rows = []
    split = frame["split"].iloc[0]
    for (world, metric), part in frame[frame["split"] == split].groupby(["world", "metric"], sort=False):
        if metric in MECHANISM:
            by = part.set_index(["contrast", "arm"])
            row = {"world": world, "metric": f"`{metric}`"}
            row["base"] = interval(by.loc[("level", BASE)], "estimate", "low", "high")
            for arm in ("standard", "purified"):
                key = (f"{arm}-{BASE}", arm)
                row[f"{arm} − base"] = change(by.loc[key]) if key in by.index else "–"
                if key in by.index:
                    row["problems (dropped)"] = used(by.loc[key])
            rows.append(row)
    return markdown(rows)


def decomposition(frame: Frame) -> str:
    """First and last diagnosis in four geometries, all tokens."""
    rows = []
    whole = frame[frame["tokens"] == "all"]
    for (world, arm), part in whole.groupby(["world", "arm"], sort=False):
        for step in (part["step"].min(), part["step"].max()):
            for measure in dict.fromkeys(part["measure"]):
                row = {"world": world, "arm": arm, "step": str(step), "measure": f"`{measure}`"}
                for found in part[(part["step"] == step) & (part["measure"] == measure)].to_dict("records"):
                    row[found["variant"]] = interval(found, "estimate", "low", "high", digits=2)
                    row["bases"] = str(found["base_seeds"])
                rows.append(row)
    return markdown(rows)


def smollm2(frame: Frame) -> str:
    """First and last diagnosis of the real model's runs; one run an arm, so no interval."""
    kept = frame[frame.groupby("arm")["step"].transform(lambda s: s.isin([s.min(), s.max()]))]
    return markdown([
        {"arm": row["arm"], "step": str(row["step"]), "measure": f"`{row['measure']}`",
         **{name: number(row[name], 2) for name in ("plain", "centred", "weighted", "topk")},
         "KL from base": number(row["kl_base"], 4)}
        for row in kept.to_dict("records")
    ])  # fmt: skip


def predicts(frame: Frame) -> str:
    """Rank correlations of what is seen before training with what training does."""
    return markdown([
        {
            "arm": row["arm"], "measure at step 1": f"`{row['measure']}`", "geometry": row["variant"],
            "Spearman with the change of accuracy": interval(row, "spearman", "low", "high", digits=2, sign=True),
            "bases (worlds)": f"{row['bases']} ({row['worlds']})",
        }
        for row in frame.to_dict("records")
    ])  # fmt: skip


def both_ways(frame: Frame) -> str:
    """Markers and accuracy side by side."""
    return markdown([
        {
            "world": row["world"], "split": row["split"], "arm": row["arm"],
            "markers per 1,000 tokens": interval(row, "rate", "rate_low", "rate_high", digits=1, sign=True),
            "markers a completion": interval(row, "count", "count_low", "count_high", digits=2, sign=True),
            "accuracy": interval(row, "accuracy", "accuracy_low", "accuracy_high", sign=True),
            "count, accuracy": f"{row['count_way']}, {row['accuracy_way']}", "speaks of": row["scope"],
        }
        for row in frame.to_dict("records")
    ])  # fmt: skip


def onset(frame: Frame) -> str:
    """Which metric moves first: first checkpoint from which a change stays on one side of 0."""
    rows = []
    for row in frame[frame["split"] == frame["split"].iloc[0]].to_dict("records"):
        ways = (("falls", row["falls_from"]), ("rises", row["rises_from"]))
        moves = [(way, step) for way, step in ways if step == step]
        if moves:
            rows.append({
                "world": row["world"], "arm": row["arm"], "metric": f"`{row['metric']}`",
                "from step": f"{moves[0][0]} from {int(moves[0][1])}",
                "change at the end": interval(row, "change_at_end", "low", "high", sign=True),
                "runs": str(row["runs"]),
            })  # fmt: skip
    return markdown(rows)


def stability(frame: Frame) -> str:
    """Gradient norm, loss and distance of each arm."""
    rows = []
    for (world, arm), part in frame.groupby(["world", "arm"], sort=False):
        row = {"world": world, "arm": arm}
        for found in part.to_dict("records"):
            row[found["what"].replace("_", " ")] = interval(found, "estimate", "low", "high", digits=4)
            row["runs (bases)"] = f"{found['runs']} ({found['base_seeds']})"
        rows.append(row)
    return markdown(rows)


def equal_distance(frame: Frame) -> str:
    """Contrasts at equal steps and at equal KL."""
    rows = []
    for (world, split, where), part in frame.groupby(["world", "split", "where"], sort=False):
        row = {"world": world, "split": split, "compared at": where}
        for found in part.to_dict("records"):
            row[found["contrast"].replace("-", " − ")] = interval(found, "difference", "low", "high", sign=True)
            row["mean KL"] = number(found["mean_kl"], 4) if "KL" in where else "–"
            row["runs"] = str(found["runs"])
        rows.append(row)
    return markdown(rows)


def crossover(frame: Frame) -> str:
    """Change of pass@k at both ends."""
    return markdown([
        {
            "world": row["world"], "split": row["split"], "arm": row["arm"],
            f"pass@{row['k_first']} − base": interval(row, "difference_first", "low_first", "high_first", sign=True),
            f"pass@{row['k_last']} − base": interval(row, "difference_last", "low_last", "high_last", sign=True),
            "crosses": "yes" if row["crosses"] else "no",
        }
        for row in frame.to_dict("records")
    ])  # fmt: skip


def support(frame: Frame) -> str:
    """Support, hard problems (levels: already against base) and diversity (changes), in distribution."""
    rows = []
    shown = frame[(frame["split"] == frame["split"].iloc[0]) & ~frame["metric"].str.startswith("avg@")]
    for (world, metric), part in shown.groupby(["world", "metric"], sort=False):
        against_base = metric.startswith(("support", "hard"))
        row = {"world": world, "metric": f"`{metric}`", "base": "–"}
        for arm in ("standard", "purified"):
            contrast = "level" if against_base else f"{arm}-{BASE}"
            for found in part[(part["arm"] == arm) & (part["contrast"] == contrast)].to_dict("records"):
                row[arm] = interval(found, "estimate", "low", "high") if against_base else f"base {change(found)}"
                row["problems (dropped)"] = used(found)
        for level in part[(part["arm"] == BASE) & (part["contrast"] == "level")].to_dict("records"):
            row["base"] = interval(level, "estimate", "low", "high")
        rows.append(row)
    return markdown(rows)


def used(row: Mapping[str, Any]) -> str:
    """``100 (0)``: problems used and dropped."""
    return f"{int(row['n_problems'])} ({int(row['n_dropped'])})"


def generalization(frame: Frame) -> str:
    """Change in distribution minus change out of it."""
    return markdown([
        {
            "world": row["world"], "from – to": row["split"].replace("-", " – "), "contrast": row["contrast"],
            "difference in differences": change(row), "problems (dropped)": used(row),
        }
        for row in frame.to_dict("records") if row["contrast"].endswith(f"-{BASE}")
    ])  # fmt: skip


def sensitivity(frame: Frame) -> str:
    """Change of accuracy and checking in distribution, with the distance travelled."""
    rows = []
    keys = ["block", "world", "arm"]
    shown = frame[frame["split"] == frame["split"].iloc[0]]
    for (block, world, arm), part in shown.groupby(keys, sort=False):
        row = {"what": block.removeprefix("sensitivity_"), "world": world, "arm": arm}
        for found in part.to_dict("records"):
            row[f"`{found['metric']}` − base"] = interval(found, "difference", "low", "high", sign=True)
            row["KL at the end"] = interval(found, "kl_at_end", "kl_low", "kl_high", digits=4)
            row.setdefault("bases, problems (dropped)", f"{found['base_seeds']}, {used(found)}")  # of accuracy
        rows.append(row)
    return markdown(rows)


def power(frame: Frame) -> str:
    """What this study can see."""
    rows = [
        {
            "metric": f"`{row['metric']}`", "problems": str(row["n_problems"]), "base seeds": str(row["base_seeds"]),
            "SD between problems": number(row["problem_sd"], 2), "SD between bases": number(row["seed_sd"], 2),
            "smallest effect found 4 times in 5": number(row["mde"]), "margin": number(row["margin"], 2),
        }
        for row in frame.to_dict("records") if row["this_study"] or row["n_problems"] == 400
    ]  # fmt: skip
    return markdown(rows)


def cells(study: Study) -> str:
    """Cells done of planned and processor seconds, block by block."""
    rows = []
    for block in study.config.blocks:
        here = [study.records[c.name] for c in study.cells([block.name]) if c.name in study.records]
        seconds = sum(record["seconds"]["cpu"] for record in here)
        rows.append({
            "block": f"`{block.name}`", "tier": block.tier, "about": block.about, "cells": study.state([block.name]),
            "analyses": ", ".join(map(str, block.analyses)), "CPU seconds": f"{seconds:,.0f}",
        })  # fmt: skip
    return markdown(rows)


def artefacts(study: Study) -> str:
    """The table of artefacts."""
    from analyses.artefacts import ARTEFACTS

    rows = []
    for one in ARTEFACTS.values():
        have = [b for b in one.blocks if b in {block.name for block in study.config.blocks}]
        here = [study.records[c.name] for c in study.cells(have) if c.name in study.records]
        script = one.make.__module__.replace(".", "/")
        rows.append({
            "analysis": str(one.analysis), "artefact": f"`{one.name}`", "script": f"`{script}.py`",
            "cells": study.state(have) if have else "none needed",
            "CPU seconds of its cells": f"{sum(record['seconds']['cpu'] for record in here):,.0f}",
            "in the paper": one.counterpart,
        })  # fmt: skip
    return markdown(rows)


TABLES: dict[str, tuple[Callable[[Any], str], str]] = {
    "power": (power, "power"), "cells": (cells, ""), "artefacts": (artefacts, ""),
    "ablation": (ablation, "ablation_table"), "mechanism": (mechanism, "ablation_table"),
    "decomposition": (decomposition, "decomposition"), "predicts": (predicts, "decomposition_predicts"),
    "markers": (both_ways, "markers_against_accuracy"), "onset": (onset, "onset"),
    "stability": (stability, "stability"), "smollm2": (smollm2, "smollm2_decomposition"),
    "equal-distance": (equal_distance, "equal_distance"),
    "crossover": (crossover, "crossover"), "support": (support, "support"),
    "generalization": (generalization, "generalization"), "sensitivity": (sensitivity, "sensitivity"),
}  # fmt: skip
