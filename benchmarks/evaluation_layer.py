"""How long grading and measuring take, and whether memory grows: made-up logs in lm-eval's layout, no network.

``python -m benchmarks.evaluation_layer --samples 100000`` writes a log of that many completions of about 1,000
characters with integer answers, ingests, grades and measures it with two worker processes, and prints seconds, CPU
seconds and peak memory of each stage, and the time of 10,000 paired bootstraps of 20 metrics over 1,000 problems. A
full-sized run that takes longer than :data:`LIMITS` ends with exit code 1. ``write_log`` is also what the tests check
the numbers on: every completion is made of a known kind, so the truth is known without reading it back.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAMP = "2026-01-01T00-00-00.000000"
KINDS = {"right": 0.55, "wrong": 0.2, "unboxed_right": 0.07, "unboxed_wrong": 0.05, "loop": 0.06, "chinese": 0.07}
NAMES = ("Natalia", "Weng", "Betty", "Julie", "James", "Mark", "Alan", "Ken", "Tina", "Ralph", "Maria", "Omar")
THINGS = ("clips", "pages", "flowers", "letters", "marbles", "tickets", "cookies", "shells", "stamps", "apples")
ASIDES = (
    "Wait, let me check that once more before going on.", "Now we look at what the second day adds to the total.",
    "Hmm, maybe I should read the question again, because the number of {thing} was given for each of the weeks.",
    "This is what {name} has after the first part of the story, and nothing was given away so far.",
    "Let me verify the last line by going backwards from the result to the start.",
    "Alternatively, one could count the {thing} one group at a time, which leads to the same number in the end.",
    "So the next thing to do is to put the two parts together and see how many there are.",
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """What a completion was made to be: its kind, and the answer that strict and relaxed extraction must find."""

    kind: str
    strict: str | None
    relaxed: str | None


def steps(rng: random.Random, name: str, thing: str, total: int) -> list[str]:
    """A chain of sums and products that ends in ``total``."""
    first = rng.randrange(2, 40)
    factor = rng.randrange(2, 9)
    product = first * factor
    rest = total - product
    sign = f"{product} + {rest}" if rest >= 0 else f"{product} - {-rest}"
    return [
        f"{name} starts with {first} {thing} in each of {factor} boxes, so there are {first} * {factor} = {product}.",
        f"Together with what comes later that makes {sign} = {total} {thing}.",
    ]


def completion(rng: random.Random, kind: str, gold: int, *, chars: int) -> tuple[str, Planted]:
    """A completion of one kind with about ``chars`` characters, and the truth about it."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    answer = gold if kind in ("right", "unboxed_right") else gold + rng.randrange(1, 12)
    lines: list[str] = []
    chain = steps(rng, name, thing, answer)
    while sum(map(len, lines)) + len(chain[0]) + len(chain[1]) + 60 < chars:
        aside = rng.choice(ASIDES).format(name=name, thing=thing)
        lines.append(f"{aside} That is about page {rng.randrange(1, 999)} of the notes of {rng.choice(NAMES)}.")
    lines[1:1] = chain[:1]
    lines.append(chain[1])
    if kind in ("right", "wrong"):
        lines.append(f"The answer is \\boxed{{{answer}}}.")
        return "\n".join(lines), Planted(kind, str(answer), str(answer))
    if kind in ("unboxed_right", "unboxed_wrong"):
        lines.append(f"So {name} ends up with a total of {answer} {thing}, which is the answer: {answer}")
        return "\n".join(lines), Planted(kind, None, str(answer))
    if kind == "chinese":
        boxed = f"所以最后的答案是 \\boxed{{{answer}}}。"
        filler = "首先我们计算第一部分的数量，然后再把第二部分加上去，这样就可以得到总数。"
        return filler * max(1, chars // (3 * len(filler))) + boxed, Planted(kind, str(answer), str(answer))
    again = f"Then {name} counts the {thing} again and again. "
    last_number = re.findall(r"\d+", lines[0])[-1]
    return lines[0] + "\n" + again * max(8, chars // len(again)), Planted("loop", None, last_number)


def question(rng: random.Random, number: int) -> str:
    """A word problem in the manner of grade-school sets."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    return (f"{name} has some boxes of {thing} and gets more of them every week. If there are {number % 97 + 2} in "
            f"the first box and the number grows by {number} until the end, how many {thing} has {name}?")  # fmt: skip


def write_log(
    folder: Path, *, problems: int, draws: int, chars: int = 350, seed: int = 0, right: float | None = None,
    same_draws: int = 0,
) -> list[list[Planted]]:
    """Write ``samples_gsm8k_*.jsonl`` and ``results_*.json`` as lm-eval 0.4.13 does; returns what was planted.

    ``right`` overrides the share of right completions; the first ``same_draws`` problems repeat their first completion
    in every draw, as a constant seed of a server makes them do.
    """
    questions, rng = random.Random(12345), random.Random(seed)
    weights = dict(KINDS) if right is None else {**KINDS, "right": right}
    folder.mkdir(parents=True, exist_ok=True)
    truth = []
    with (folder / f"samples_gsm8k_{STAMP}.jsonl").open("w", encoding="utf-8") as file:
        for number in range(problems):
            gold = questions.randrange(40, 2000)
            asked = question(questions, number)
            kinds = rng.choices(list(weights), list(weights.values()), k=draws)
            made = [completion(rng, kind, gold, chars=chars) for kind in kinds]
            if number < same_draws:
                made = made[:1] * draws
            truth.append([planted for _, planted in made])
            file.write(json.dumps(_row(number, asked, gold, [text for text, _ in made]), ensure_ascii=False) + "\n")
    (folder / f"results_{STAMP}.json").write_text(json.dumps(_results(draws)), encoding="utf-8")
    return truth


def _row(number: int, asked: str, gold: int, texts: list[str]) -> dict[str, Any]:
    prompt = f"Question: {asked}\nAnswer:"
    kwargs = {"until": [], "do_sample": True, "temperature": 0.8, "max_gen_toks": 512}
    doc = {"question": asked, "answer": f"Add everything up.\n#### {gold}"}
    sha = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in
           (("doc_hash", json.dumps(doc)), ("prompt_hash", prompt), ("target_hash", doc["answer"]))}  # fmt: skip
    return {
        "doc_id": number, "doc": doc, "target": doc["answer"],
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": kwargs}}, "resps": [texts], "filtered_resps": [texts],
        "filter": "all_samples", "metrics": ["exact_match"], **sha, "exact_match": 0.0,
    }  # fmt: skip


def _results(draws: int) -> dict[str, Any]:
    kwargs = {"until": [], "do_sample": True, "temperature": 0.8, "max_gen_toks": 512}
    return {
        "results": {"gsm8k": {"alias": "gsm8k", "exact_match,all_samples": 0.0}},
        "configs": {"gsm8k": {"task": "gsm8k", "repeats": draws, "generation_kwargs": kwargs,
                              "metadata": {"version": 3.0}}},
        "config": {"model": "vllm", "model_args": {"pretrained": "made-up"}, "use_cache": None, "limit": None},
        "lm_eval_version": "0.4.13", "transformers_version": "4.57.0", "model_name": "made-up", "date": 0.0,
    }  # fmt: skip


# --- timing -----------------------------------------------------------------------------------------------

_STAGE = """
import resource, sys, time
from opsd_eval.cli import main
code = main(sys.argv[1:])
own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
print("USAGE", own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, own.ru_maxrss, children.ru_maxrss,
      file=sys.stderr)
sys.exit(code)
"""


def timed(*arguments: str) -> dict[str, float]:
    """Seconds, CPU seconds and peak MiB (parent and largest worker) of one ``opsd-eval`` verb in its own process."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _STAGE, *arguments], capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    seconds = time.perf_counter() - start
    usage = [line for line in done.stderr.splitlines() if line.startswith("USAGE")]
    if done.returncode or not usage:
        raise RuntimeError(f"opsd-eval {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    cpu, own, worker = map(float, usage[-1].split()[1:])
    return {"seconds": seconds, "cpu_seconds": cpu, "parent_mib": own / 1024, "worker_mib": worker / 1024}


def run_stages(folder: Path, *, samples: int, draws: int, chars: int, processes: int) -> dict[str, dict[str, float]]:
    """Write a log, then time ingest, grade and measure."""
    write_log(folder / "log", problems=samples // draws, draws=draws, chars=chars)
    target, workers = str(folder / "set"), ["--processes", str(processes)]
    return {
        "ingest": timed("ingest", str(folder / "log"), "--out", target),
        "grade": timed("grade", target, *workers),
        "measure": timed("measure", target, *workers),
    }


#: Seconds on two idle cores: grading and measuring 100,000 completions; the bootstrap.
LIMITS = {"grade and measure": 60.0, "bootstrap": 2.0}


def bootstrap_seconds(*, metrics: int = 20, problems: int = 1000, resamples: int = 10_000) -> float:
    """Seconds for the bootstrap distribution of every metric's paired difference, the same problems for all."""
    import numpy as np

    from opsd_eval.stats import bootstrap_means

    before, after = np.random.default_rng(0).random((2, problems, metrics))
    start = time.perf_counter()
    bootstrap_means(after - before, n_resamples=resamples)
    return time.perf_counter() - start


def main() -> int:
    """Command line; the exit code says whether a full-sized run stayed within the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--chars", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stages = run_stages(Path(folder), samples=args.samples, draws=args.draws, chars=args.chars,
                            processes=args.processes)  # fmt: skip
    for name, row in stages.items():
        print(f"{name:8} " + "  ".join(f"{key} {value:8.1f}" for key, value in row.items()))
    graded_and_measured = stages["grade"]["seconds"] + stages["measure"]["seconds"]
    found = {"grade and measure": graded_and_measured, "bootstrap": bootstrap_seconds()}
    print("\n".join(f"{name}: {found[name]:.1f} s, limit {limit:g} s" for name, limit in LIMITS.items()))
    return int(args.samples >= 100_000 and any(found[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
