"""Analysis 2 on a real model: the decomposition in the step logs of a SmolLM2-135M run (``make real-run``).

``python -m analyses.smollm2_decomposition --runs runs/smollm2`` writes ``smollm2_decomposition.csv``. One run an arm:
a description of these two runs on a few hundred tokens a diagnosis, without intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analyses.decomposition import MEASURES, VARIANTS
from opsd_eval.records import read_jsonl, read_run, write_text

ARMS = ("standard", "purified")


def rows(runs: Path) -> Iterator[dict[str, Any]]:
    """One row an arm, diagnosed step and measure, a column a geometry."""
    for arm in ARMS:
        path = runs / arm / "train.jsonl"
        if not path.exists():
            raise ValueError(f"{path}: no such log; make it with `make real-run`, or pass --runs FOLDER")
        run = read_run(runs / arm)
        for row in read_jsonl(path):
            if seen := row.get("diagnostics"):
                for measure in MEASURES:
                    yield {
                        "arm": arm, "step": row["step"], "measure": measure,
                        **{v: float(f"{seen[f'{measure}_{v}']:.4g}") for v in VARIANTS},
                        "kl_base": float(f"{seen['kl_from_base']:.3g}"), "seed": run.seed,
                        "commit": str(run.commit)[:8] + ("+" if run.dirty else ""),
                    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    import pandas as pd

    parser = argparse.ArgumentParser(prog="python -m analyses.smollm2_decomposition", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path("runs/smollm2"), help="folder of the run (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/study/smollm2_decomposition.csv"))
    args = parser.parse_args(argv)
    try:
        table = pd.DataFrame(list(rows(args.runs)))
    except ValueError as error:
        print(f"error: {error}")
        return 1
    head = "# SmolLM2-135M-Instruct, reasoning_gym.chain_sum, one run an arm: description without intervals\n"
    write_text(args.out, head + table.to_csv(index=False, lineterminator="\n"))
    print(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
