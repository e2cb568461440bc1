"""What can be named on the command line: metrics, benchmarks, engines, log formats."""

from __future__ import annotations

import argparse

KINDS = ("metrics", "benchmarks", "engines", "formats")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-eval list``."""
    parser.add_argument("kind", choices=KINDS, help="what to list")


def run(args: argparse.Namespace) -> int:
    """Print one line an entry: name, direction where it has one, what it is."""
    rows = {"metrics": metric_rows, "benchmarks": benchmark_rows, "engines": engine_rows, "formats": format_rows}
    for name, note, text in rows[args.kind]():
        print(f"{name:26} {note:16} {text}".rstrip() if note else f"{name:26} {text}".rstrip())
    return 0


def metric_rows() -> list[tuple[str, str, str]]:
    """(name, direction and kind, first line of the docstring) of every registered metric."""
    from opsd_eval.metrics import CORPUS_METRICS, FAMILIES, METRICS, PAIR_METRICS, SET_PAIR_METRICS

    rows = []
    for family in FAMILIES.values():
        member = family.at(4)
        doc = family.at.__doc__ or member.compute.__doc__
        rows.append((family.name + ("" if family.default else "*"), member.better, _first_line(doc)))
    pairs = {**PAIR_METRICS, **SET_PAIR_METRICS}
    for kind, registry in (("", METRICS), (" pair", pairs), (" set", CORPUS_METRICS)):
        for name, metric in registry.items():
            on_request = "" if metric.default else "*"
            rows.append((name + on_request, metric.better + kind, _first_line(metric.compute.__doc__)))
    return [*rows, ("", "", "(* measured on request: --metric NAME)")]


def benchmark_rows() -> list[tuple[str, str, str]]:
    """(name, kind, description) of the benchmarks."""
    from opsd_eval.benchmarks import benchmark_names

    return [(name, "", "") for name in benchmark_names()]


def engine_rows() -> list[tuple[str, str, str]]:
    """(name, kind, description) of the engines."""
    from opsd_eval.engines import ENGINES

    return [(name, "", _first_line(engine.__doc__)) for name, engine in ENGINES.items()]


def format_rows() -> list[tuple[str, str, str]]:
    """(name, kind, description) of the log formats that ``ingest`` reads."""
    from opsd_eval.ingest import FORMATS

    return [(name, "", form.summary) for name, form in FORMATS.items()]


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().split("\n", 1)[0]
