"""``opsd-eval``: from samples to verdict. Each verb lives in its own module, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from opsd_eval.interrupts import Terminated, terminable
from opsd_eval.visible import visible
from opsd_eval.workers import WorkerLost

#: verb → (module with add_arguments(parser) and run(args) -> exit code, what it does, examples and what comes of them).
VERBS = {
    "sample": ("opsd_eval.sampling", "draw completions of a benchmark from a model", """\
  opsd-eval sample opsd_eval/testbed/bases/hunch_r10_s0 testbed.hunch_r10.id --n 8 --out sets/base
  opsd-eval sample runs/mine/model aime24 --preset paper --out sets/mine       # 12 draws, thinking on, 38,912 tokens
  opsd-eval sample qwen3-8b gsm8k --engine server --url http://host:8000/v1 --tokenizer DIR --out sets/served
The same command again goes on where it stopped; a larger --n adds draws."""),
    "ingest": ("opsd_eval.ingest", "turn another harness's logs into a sample set", """\
  opsd-eval ingest out/samples_gsm8k_2026-01-01.jsonl --out sets/theirs        # results_*.json beside it is read too
  opsd-eval ingest eval-results --task aime24 --out sets/theirs                # a folder with several tasks
  opsd-eval ingest lm_eval_out/MODEL --task minerva_math --out sets/theirs     # a group; --all-tasks: every task
  opsd-eval ingest log.jsonl.gz --format generic --strict --out sets/mine      # stop at the first malformed line
Next: opsd-eval audit sets/theirs. The same command again adds only what is new."""),
    "audit": ("opsd_eval.audit", "look for what would make the numbers meaningless", """\
  opsd-eval audit sets/base                      # identical draws, stripped reasoning, truncation, missing gold, …
  opsd-eval audit sets/base sets/tuned           # and whether the second may be compared with the first
  opsd-eval audit sets/base --json | jq '.rows[] | select(.level == "error")'
Exit code 1 when a finding makes the numbers meaningless."""),
    "grade": ("opsd_eval.grading", "extract and judge the answers (strict and relaxed)", """\
  opsd-eval grade sets/base sets/tuned           # writes grades.jsonl; only what is not graded yet
  opsd-eval grade sets/base --force              # after correcting answers in problems.jsonl; samples stay as they are
measure and report grade by themselves what is not graded."""),
    "measure": ("opsd_eval.measure", "compute metrics, one number a problem, with intervals", """\
  opsd-eval measure sets/base                                     # all that are quick and need no model
  opsd-eval measure sets/base --metric pass@k --metric marker_rate
  opsd-eval measure sets/base --embeddings minilm                 # adds embedding_clusters, vendi, …
  opsd-eval measure sets/base --json | jq '.rows[] | select(.metric == "avg@8")'
Writes measures.csv (one row a problem) and estimates.json into the set."""),
    "compare": ("opsd_eval.compare", "paired differences between two (or three) sets over the same problems", """\
  opsd-eval compare sets/base sets/tuned --margin 0.02            # within ±0.02 counts as preserved
  opsd-eval compare sets/base sets/standard sets/purified         # adds the recovered fraction
  opsd-eval compare sets/base sets/tuned --axis length=3,4        # adds the generalization gap
Exit code 2 when the sets are over different problems: there is nothing to pair."""),
    "report": ("opsd_eval.report", "one HTML page, a scorecard and tables", """\
  opsd-eval report sets/base sets/tuned --out report              # open report/report.html in a browser
  opsd-eval report sets/{base,tuned}_gsm8k sets/{base,tuned}_aime24 --out report     # and generalization gaps
  opsd-eval report --arm base a b --arm tuned c d --out report    # a and c, b and d: one benchmark each
  opsd-eval report sets/base sets/tuned --embeddings minilm --out report            # and embedding clusters
  opsd-eval report sets/base sets/mine/checkpoint-{100,200,300} --out report   # a series, with the onset of collapse
report/tables/*.csv hold what every plot shows; report/completions/*.txt the full texts of the problems shown."""),
    "probe": ("opsd_eval.probe", "ask a model for its answer part-way through each completion", """\
  opsd-eval probe sets/base --model opsd_eval/testbed/bases/hunch_r10_s0
Writes probes.jsonl; measure then has early_answer_at_0, early_answer_area and early_answer_flips. Resumes."""),
    "doctor": ("opsd_eval.doctor", "name the pitfalls of a harness configuration before GPU hours are spent", """\
  opsd-eval doctor my_task.yaml run.sh           # a task and the script that runs it, judged together
  opsd-eval doctor "lm_eval --model vllm --tasks aime24 --gen_kwargs temperature=0.6"
  opsd-eval doctor "vllm serve Qwen/Qwen3-8B --reasoning-parser qwen3"
Exit code 1 on a pitfall that spoils the run. Nothing is run or downloaded."""),
    "list": ("opsd_eval.listing", "list metrics, benchmarks, engines or log formats", """\
  opsd-eval list metrics                         # name, direction, meaning
  opsd-eval list formats                         # what ingest reads"""),
}

_EPILOG = """\
A sample set is a folder with run.json, problems.jsonl and samples.jsonl; grading adds grades.jsonl, measuring adds
measures.csv and estimates.json. Every verb takes sample sets, whether sampled here or ingested.

the usual way from a model to a verdict:
  opsd-eval sample MODEL BENCHMARK --n 8 --out sets/base
  opsd-eval sample OTHER_MODEL BENCHMARK --n 8 --out sets/tuned
  opsd-eval compare sets/base sets/tuned
  opsd-eval report sets/base sets/tuned --out report

from another harness's logs:
  opsd-eval ingest LOGS --out sets/theirs
  opsd-eval audit sets/theirs
  opsd-eval measure sets/theirs

`opsd-eval VERB --help` explains a verb."""


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the verb asked for has its arguments, so that nothing else is imported."""
    parser = argparse.ArgumentParser(
        prog="opsd-eval", description="Measure what self-distillation does to reasoning, from samples alone.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (module, summary, examples) in VERBS.items():
        command = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == verb:
            importlib.import_module(module).add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, or 2 with one message for a mistake of the user's or a disk that refuses.

    1: a worker process was lost (or the verb found something, as ``audit`` does).

    SIGTERM and Ctrl-C end the verb with what is finished on disk: exit codes 143 and 130.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in arguments if not word.startswith("-")), None)
    try:
        with terminable():
            args = build_parser(verb if verb in VERBS else None).parse_args(arguments)
            return importlib.import_module(VERBS[args.verb][0]).run(args)
    except ValueError as error:
        print(f"opsd-eval: {visible(str(error))}", file=sys.stderr)
        return 2
    except WorkerLost as error:
        print(f"opsd-eval: {error}; what is finished is kept, run the same command again", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has left, for instance `| head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("opsd-eval: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except Terminated as stop:
        print("opsd-eval: stopped; the same command goes on where it stopped", file=sys.stderr)
        return stop.code
    except OSError as error:
        print(
            f"opsd-eval: {error}; check the path, its permissions and free space, and run the same command again",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
