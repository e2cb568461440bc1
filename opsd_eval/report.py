"""From sample sets or a study to a report folder: scorecard, tables, figures and one self-contained page."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from opsd_eval import report_data, report_samples, scorecard, scorecard_text, tables
from opsd_eval.locks import locked
from opsd_eval.records import write_json, write_text
from opsd_eval.report_data import ReportData
from opsd_eval.startup import bring_in

PAGE = "report.html"


def write_report(data: ReportData, out: Path | str) -> Path:
    """Write scorecard.json, scorecard.md, tables/, figures/, completions/ and, last, report.html; returns the page.

    All is made in ``.partial`` first and then moved: an error leaves an earlier report as it was. The page is taken
    away before the other files change and comes back last, so a page that is there is whole and belongs to them.
    Nothing depends on the clock: the same data give the same bytes. A second process is refused.
    """
    out = Path(out)
    with locked(out, f"{out} is being written by process {{holder}}; wait for it or choose another --out"):
        stage = out / ".partial"
        shutil.rmtree(stage, ignore_errors=True)
        try:
            _make(data, stage, out)
            _publish(stage, out)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            (out / ".lock").unlink(missing_ok=True)  # reports get published
    return out / PAGE


def _publish(stage: Path, out: Path) -> None:
    """Move a finished report into place, the page last."""
    (out / PAGE).unlink(missing_ok=True)
    for path in sorted((p for p in stage.rglob("*") if p.is_file()), key=lambda p: p == stage / PAGE):
        target = out / path.relative_to(stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def _make(data: ReportData, stage: Path, out: Path) -> None:
    """Write every file of the report into ``stage``, with links as seen from ``out``."""
    from opsd_eval.figures import draw_all, save_figures
    from opsd_eval.report_page import render

    document = scorecard.scorecard_document(data.rows, {**scorecard.settings_row(data.settings), **data.config})
    csvs = tables.save_tables(_tables(data), stage / "tables")
    drawn = draw_all(data)
    save_figures(drawn, stage / "figures")
    chosen = report_samples.choose(data)
    links = report_samples.write_full_texts(chosen, stage)
    page = render(data, drawn, out=out, chosen=chosen, links=links, csvs=[path.name for path in csvs])
    write_text(stage / "scorecard.md", scorecard_text.markdown(document, data.about))
    write_json(stage / "scorecard.json", document)
    write_text(stage / PAGE, page)


def _tables(data: ReportData) -> dict:
    import pandas as pd

    found = {
        "scorecard": pd.DataFrame(data.rows),
        "problem_values": data.values.drop(columns="path").dropna(subset=["value"]),
        "outcomes": data.outcomes.drop(columns="path", errors="ignore"), "training": data.training,
        "against_base": data.pairs, "estimates": tables.estimates(data.sets),
        "recovered": pd.DataFrame(data.recovered),
    }  # fmt: skip
    metric = next(iter(data.settings.primary), None)
    if metric is not None:
        found["series"] = report_data.series(data, metric)
    return found


def report_sets(
    paths: Sequence[Path | str], out: Path | str, *, arms: Mapping[str, Sequence[Path | str]] | None = None,
    margin: float | None = None, embeddings: str | None = None,
) -> Path:
    """A report on sample sets from anywhere, the first being the baseline; grades and measures what is not yet.

    ``arms`` (name: sets) says which sets are one model on several benchmarks, where that is not to be found out;
    ``embeddings`` names an encoder for embedding clusters and the like.
    """
    return write_report(gather_sets(paths, arms=arms, margin=margin, embeddings=embeddings), out)


def gather_sets(
    paths: Sequence[Path | str], *, arms: Mapping[str, Sequence[Path | str]] | None = None,
    margin: float | None = None, embeddings: str | None = None,
) -> ReportData:
    """What :func:`report_sets` reports on."""
    from opsd_eval.grading import grade_set
    from opsd_eval.measure import measure_set

    for path in map(Path, [*paths, *(path for of in (arms or {}).values() for path in of)]):
        ungraded = _lines(path / "grades.jsonl") < _lines(path / "samples.jsonl")
        if ungraded:
            grade_set(path)
        unmeasured = not all((path / name).exists() for name in ("measures.csv", "estimates.json"))
        if ungraded or unmeasured or embeddings is not None:
            measure_set(path, embeddings=embeddings)
    return report_data.from_sets(paths, arms=arms, margin=margin)


def _lines(path: Path) -> int:
    """Whole lines of a file; none of one that is not there."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


# --- command line -----------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-eval report``."""
    parser.description = (
        "Write a report on one or more sample sets: scorecard (JSON and Markdown), tables, figures, and report.html, "
        "which stands alone. The first set is the baseline, and its benchmark is in distribution: other sets of the "
        "same problems are compared with it, paired by problem, and sets of other benchmarks give the generalization "
        "gaps. Sets of one model (run.json), or named alike (base_gsm8k, base_aime), are one arm; --arm says so "
        "explicitly."
    )
    parser.add_argument(
        "sets", nargs="*", default=[], metavar="SET", help="folder of a sample set; the first is the baseline"
    )
    parser.add_argument(
        "--arm", nargs="+", action="append", default=[], metavar="WORD",
        help="NAME SET …: sets of one model, over several benchmarks or checkpoints; repeat it, the baseline first",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--embeddings", metavar="ENCODER", help="add embedding clusters: minilm, tfidf, or a model folder"
    )
    parser.add_argument(
        "--margin", type=float, metavar="X",
        help="difference in accuracy too small to matter, such as 0.02: makes 'preserved' possible",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the report, print its scorecard in short and say where the page is."""
    arms: dict[str, list[str]] = {}
    for name, *paths in args.arm:
        if not paths:
            raise ValueError(f"--arm {name} names no set: give --arm NAME SET …")
        arms.setdefault(name, []).extend(paths)
    if not args.sets and not arms:
        raise ValueError("report needs at least one sample set: opsd-eval report SET… --out DIR")
    bring_in("pandas", "matplotlib.figure", "opsd_eval.stats")
    data = gather_sets(args.sets, arms=arms, margin=args.margin, embeddings=args.embeddings)
    page = write_report(data, args.out)
    document = scorecard.scorecard_document(data.rows, {"level": data.settings.level})
    print(scorecard_text.terminal(document, data.about), end="\n\n")
    for note in data.notes:
        print(scorecard_text.printable(note))
    print(page)
    return 0
