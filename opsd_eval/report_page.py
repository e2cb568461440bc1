"""The report as one HTML page: no request leaves it, and nothing in it runs but our own script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_eval import report_samples as samples
from opsd_eval import scorecard_text as text
from opsd_eval.figures import FIGURES
from opsd_eval.plotstyle import ARM_COLOURS, inline_svg
from opsd_eval.records import OUTCOMES
from opsd_eval.report_data import ReportData, run_record

ASSETS = Path(__file__).parent / "report_assets"
SECTIONS = (
    ("overview", "At a glance", ("contrasts", "accuracy", "pass_at_k", "outcomes")),
    ("reasoning", "Reasoning and diversity", ("mechanism", "steps", "diversity", "markers")),
    ("generalization", "Generalization", ("gap",)),
    ("training", "Over training", ("series", "distance", "markers_over_training", "decomposition", "stability")),
)
VERDICTS = {
    "improved": ("▲", "the interval excludes 0, in the better direction"),
    "degraded": ("▼", "the interval excludes 0, in the worse direction"),
    "preserved": ("●", "the interval lies inside ± the margin"),
    "undecided": ("○", "neither; mde is the smallest effect that could have been seen"),
    "differs": ("◆", "the interval excludes 0, for a metric without a better direction"),
}


def content_security_policy(script: str) -> str:
    """Nothing may load; styles inline, images embedded, and only the script whose hash is named."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def render(
    data: ReportData, drawn: Mapping[str, str], *, out: Path, chosen: Sequence[samples.Shown], links: Sequence[str],
    csvs: Sequence[str],
) -> str:
    """The page's HTML. Every text goes through autoescape; only our own CSS, script and drawn SVG are trusted."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_no_controls,
    )  # fmt: skip
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    arm_ids = {arm: f"a{at}" for at, arm in enumerate(data.arms)}
    return environment.get_template("report.html").render(
        csp=content_security_policy(script), js=Markup(script), css=Markup((ASSETS / "style.css").read_text("utf-8")),
        page=_heading(data), level=f"{data.settings.level:.0%}", worlds=[_world(data, w) for w in data.worlds],
        verdicts=[_verdict(name) | {"meaning": meaning} for name, (_, meaning) in VERDICTS.items()],
        sections=_sections(drawn), problems=list(samples.views(chosen, links, arm_ids)), outcomes=OUTCOMES,
        samples_note=_samples_note(data, chosen), arms=[{"id": i, "name": a} for a, i in arm_ids.items()],
        places=[{"id": f"p{at}", "name": " · ".join(place)}
                for at, place in enumerate(dict.fromkeys(s.place for s in chosen))],
        facts=_facts(data), config=_yaml(data.config), csvs=list(csvs), sets=[
            {**{k: "–" if v is None else v for k, v in s.columns().items()},
             "link": samples.relative_link(s.path / "samples.jsonl", out)} for s in data.reported
        ],
    )  # fmt: skip


def _no_controls(value: Any) -> Any:
    """Every text on the page without control characters; our own markup passes."""
    return samples.visible(value) if type(value) is str else value


# --- the pieces -------------------------------------------------------------------------------------------


def _heading(data: ReportData) -> dict[str, Any]:
    scopes = {row["scope"] for row in data.rows if row["contrast"] != "level"}
    scope = list(data.notes)
    if "checkpoints" in scopes:
        scope.append(
            "These checkpoints only: intervals cover the choice of problems. A verdict on a method needs at least 3 "
            "base seeds and an interval that crosses seeds and problems."
        )
    if "method" in scopes:
        scope.append("Worlds with 3 or more base seeds: intervals of differences cross seeds and problems.")
    arms = ", ".join(data.arms)
    n_sets = len(data.reported)
    subtitle = f"{arms}: {n_sets} sample sets, {len(data.worlds)} world{'s' * (len(data.worlds) != 1)}"
    heading = str(data.config.get("heading") or data.title)
    return {"title": heading, "heading": heading, "subtitle": subtitle, "scope": scope}


def _world(data: ReportData, world: str) -> dict[str, Any]:
    entries = text.grid(data.rows, world=world, primary=False)
    primary = [e for e in entries if text.is_primary(e)]
    rest = [e for e in entries if not text.is_primary(e)]
    return {
        "name": world, "about": data.about.get(world, ""), "primary": _table(data, primary), "rest": _table(data, rest),
        "pairs": _pair_rows(data, world),
        "recovered": [
            {**row, "value": text.number(row["estimate"]), "interval": text.interval(row["low"], row["high"])}
            for row in data.recovered if row["world"] == world and row["estimate"] == row["estimate"]
        ],
    }  # fmt: skip


def _pair_rows(data: ReportData, world: str) -> list[dict[str, Any]]:
    if data.pairs is None or data.pairs.empty:
        return []
    rows = data.pairs[data.pairs["world"] == world].to_dict("records")
    return [
        {"split": r["split"], "arm": r["arm"], "metric": r["metric"], "n": f"{r['n_problems']}/{r['n_dropped']}",
         "run": " ".join(f"{name}{int(r[key])}" for name, key in (("s", "base_seed"), ("t", "train_seed"))
                         if r[key] is not None and r[key] == r[key]),
         "value": text.number(r["estimate"]), "interval": text.interval(r["low"], r["high"])}
        for r in rows
    ]  # fmt: skip


def _table(data: ReportData, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    arms, contrasts = text.columns(data.rows)
    rows, last = [], None
    for entry in sorted(entries, key=lambda e: data.splits.index(e["split"]) if e["split"] in data.splits else 99):
        rows.append({
            "split": entry["split"], "first": entry["split"] != last, "n": text.counts(entry),
            "metric": entry["metric"], "levels": [_level(entry["levels"].get(arm)) for arm in arms],
            "contrasts": [_contrast(entry["contrasts"].get(c)) for c in contrasts],
        })  # fmt: skip
        last = entry["split"]
    named = [{"name": arm, "swatch": f"arm-{arm}" if arm in ARM_COLOURS else ""} for arm in arms]
    return {"arms": named, "contrasts": [text.minus(c) for c in contrasts], "rows": rows}


def _level(row: Mapping[str, Any] | None) -> dict[str, str]:
    if row is None:
        return {"value": text.DASH, "interval": ""}
    return {"value": text.number(row["estimate"]), "interval": text.interval(row["low"], row["high"])}


def _contrast(row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None:
        return {"verdict": None}
    verdict = text.shown_verdict(row)
    p = row["p_value"] if row["p_adjusted"] is None else row["p_adjusted"]
    small = [text.p_text(p) + (" adj." if row["p_adjusted"] is not None else "")]
    small += [f"mde {text.number(row['mde'])}"] if verdict == "undecided" else []
    return {
        "value": text.number(row["difference"], signed=True), "verdict": _verdict(verdict),
        "interval": text.interval(row["difference_low"], row["difference_high"], signed=True),
        "small": " · ".join(part for part in small if part.strip()),
    }  # fmt: skip


def _verdict(name: str) -> dict[str, str]:
    return {"name": name, "icon": VERDICTS[name][0]}


def _sections(drawn: Mapping[str, str]) -> list[dict[str, Any]]:
    from markupsafe import Markup

    found = []
    for name, title, figures in SECTIONS:
        shown = [
            {"name": f, "title": FIGURES[f].title, "caption": FIGURES[f].caption,
             "svg": Markup(inline_svg(drawn[f], prefix=f))}
            for f in figures if f in drawn
        ]  # fmt: skip
        if shown:
            found.append({"id": name, "title": title, "figures": shown})
    return found


def _samples_note(data: ReportData, chosen: Sequence[samples.Shown]) -> str:
    places = len({s.place for s in chosen})
    each = len(chosen) // places if places else 0
    return (
        f"{each} problems of each world and split, chosen by a hash of their ids and so blind to how they came out. "
        f"One run speaks for each arm; a dot is a draw, the first {samples.DRAWS_SHOWN} draws are shown."
    )


def _facts(data: ReportData) -> list[tuple[str, str]]:
    """Commit, versions, seeds and command, from the run records behind the reported sets."""
    records = [run_record(info) for info in data.reported]
    commits = {f"{r.commit or 'unknown'}{' (with uncommitted changes)' if r.dirty else ''}" for r in records}
    versions = {f"{name} {version}" for r in records for name, version in r.versions.items()}
    bases = {str(s.base_seed) for s in data.reported if s.base_seed is not None}
    trained = {str(s.train_seed) for s in data.reported if s.train_seed is not None}
    facts = [
        ("command", str(data.config.get("command", ""))), ("commit", ", ".join(sorted(commits))),
        ("versions", ", ".join(sorted(versions))), ("base seeds", ", ".join(sorted(bases))),
        ("training seeds", ", ".join(sorted(trained))),
        ("draws a problem", "" if data.draws is None else str(data.draws)),
    ]  # fmt: skip
    return [(name, value) for name, value in facts if value]


def _yaml(config: Mapping[str, Any]) -> str:
    import json

    import yaml

    plain = json.loads(json.dumps(config, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
