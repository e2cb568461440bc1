"""The verbs' front: measure a sample set, compare two; the work is in ``measures.py`` and ``compare.py``.

>>> measure_set("sets/base")                      # doctest: +SKIP
>>> compare_sets("sets/base", "sets/tuned")       # doctest: +SKIP
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_eval.compare import compare_sets, recovered
from opsd_eval.measures import Measures, measure_set, read_measures
from opsd_eval.startup import bring_in

__all__ = ["Measures", "add_arguments", "compare_sets", "measure_set", "read_measures", "recovered", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-eval measure``."""
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="sample set folders (graded if need be)")
    parser.add_argument("--metric", action="append", metavar="NAME", help="metric or family; repeat for several "
                        "(default: all that are quick and need no model; see `opsd-eval list metrics`)")  # fmt: skip
    parser.add_argument("--embeddings", metavar="ENCODER", default=None,
                        help="add the metrics that need an encoder: minilm, tfidf, or a sentence-transformers folder")
    parser.add_argument("--level", type=float, default=0.95, help="level of the intervals (default 0.95)")
    parser.add_argument("--processes", type=int, default=None, help="worker processes (default: the cores)")
    parser.add_argument("--force", action="store_true", help="measure again even where nothing has changed")
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]} and nothing else')


def run(args: argparse.Namespace) -> int:
    """Grade what is not graded, measure each set and print the estimates."""
    from opsd_eval.grading import grade_set
    from opsd_eval.records import dumps

    bring_in("pandas", "opsd_eval.stats")
    rows = []
    for folder in args.sets:
        grade_set(folder, processes=args.processes)
        table = measure_set(
            folder, metrics=args.metric, level=args.level, processes=args.processes, embeddings=args.embeddings,
            force=args.force,
        )  # fmt: skip
        rows += [{"set": str(folder), **row} for row in table.to_dict("records")]
        if not args.json:
            print(f"{folder}\n{format_rows(table.to_dict('records'), level=args.level)}\n{what_to_buy(folder)}\n")
    if args.json:
        print(dumps({"rows": rows}))
    return 0


def what_to_buy(folder: Path | str) -> str:
    """Where the error of a set's accuracy comes from and what would make it smaller; empty without an accuracy."""
    from opsd_eval.stats import variance_split

    measures = read_measures(folder)
    name = next((name for name in measures.values if name.startswith("avg@")), None)
    if name is None:
        return ""
    scores = {
        problem_id: [1.0] * round(rate * n) + [0.0] * (n - round(rate * n))
        for problem_id, n, rate in zip(measures.problem_ids, measures.n.tolist(), measures.values[name], strict=True)
        if rate == rate
    }
    split = variance_split({"this set": scores})
    return f"{name}: {split}" if split.n_problems > 1 else ""


def format_rows(rows: Sequence[Mapping[str, Any]], *, level: float = 0.95) -> str:
    """Estimates as an aligned text table."""
    lines = [f"{'metric':28} {'estimate':>10}  {f'{100 * level:g} % interval':>22}  {'used':>6} {'dropped':>7}"]
    for row in rows:
        if row["estimate"] != row["estimate"]:
            lines.append(f"{row['metric']:28} {'undefined':>10}  {'':22}  {row['n_problems']:6} {row['n_dropped']:7}")
            continue
        interval = f"[{row['low']:.4g}, {row['high']:.4g}]"
        lines.append(
            f"{row['metric']:28} {row['estimate']:10.4g}  {interval:>22}  {row['n_problems']:6} {row['n_dropped']:7}"
        )
    return "\n".join(lines)
