"""From sample sets or a study to a report folder: scorecard, tables, figures and one self-contained page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from opsd_eval import report_data, report_samples, scorecard, scorecard_text, tables
from opsd_eval.records import write_json, write_text
from opsd_eval.report_data import ReportData


def write_report(data: ReportData, out: Path | str) -> Path:
    """Write scorecard.json, scorecard.md, tables/, figures/, completions/ and, last, report.html; returns the page.

    Each file appears whole or not at all, and the page, which stands alone, comes last. Nothing depends on the
    clock: the same data give the same bytes.
    """
    from opsd_eval.figures import draw_all, save_figures
    from opsd_eval.report_page import render

    out = Path(out)
    document = scorecard.scorecard_document(data.rows, {**scorecard.settings_row(data.settings), **data.config})
    csvs = tables.save_tables(_tables(data), out / "tables")
    drawn = draw_all(data)
    save_figures(drawn, out / "figures")
    chosen = report_samples.choose(data)
    links = report_samples.write_full_texts(chosen, out)
    page = render(data, drawn, out=out, chosen=chosen, links=links, csvs=[path.name for path in csvs])
    write_text(out / "scorecard.md", scorecard_text.markdown(document, data.about))
    write_json(out / "scorecard.json", document)
    write_text(out / "report.html", page)
    return out / "report.html"


def _tables(data: ReportData) -> dict:
    import pandas as pd

    found = {
        "scorecard": pd.DataFrame(data.rows), "problem_values": data.values.drop(columns="path"),
        "outcomes": data.outcomes.drop(columns="path", errors="ignore"), "training": data.training,
        "against_base": data.pairs, "estimates": tables.estimates(data.sets),
        "recovered": pd.DataFrame(data.recovered),
    }  # fmt: skip
    metric = next(iter(data.settings.primary), None)
    if metric is not None:
        found["series"] = report_data.series(data, metric)
    return found


def report_sets(paths: Sequence[Path | str], out: Path | str, *, margin: float | None = None) -> Path:
    """A report on sample sets from anywhere, the first being the baseline; grades and measures what is not yet."""
    from opsd_eval.grading import grade_set
    from opsd_eval.measure import measure_set

    for path in map(Path, paths):
        if not (path / "grades.jsonl").exists():
            grade_set(path)
        if not (path / "measures.csv").exists():
            measure_set(path)
    return write_report(report_data.from_sets(paths, margin=margin), out)


# --- command line -----------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-eval report``."""
    parser.description = (
        "Write a report on one or more sample sets: scorecard (JSON and Markdown), tables, figures, and report.html, "
        "which stands alone. The first set is the baseline: the others are compared with it, paired by problem."
    )
    parser.add_argument("sets", nargs="+", metavar="SET", help="folder of a sample set; the first is the baseline")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--margin", type=float, metavar="X",
        help="difference in accuracy too small to matter, such as 0.02: makes 'preserved' possible",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    page = report_sets(args.sets, args.out, margin=args.margin)
    print(page)
    return 0
