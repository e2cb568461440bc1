"""``opsd-eval``: from samples to verdict. Each verb lives in its own module, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from opsd_eval.interrupts import Terminated, terminable

#: verb → (module with add_arguments(parser) and run(args) -> exit code, what it does, example).
VERBS = {
    "sample": (
        "opsd_eval.sampling", "draw completions of a benchmark from a model",
        "opsd-eval sample opsd_eval/testbed/bases/hunch_r10_s0 testbed.hunch_r10.id --n 8 --out sets/base",
    ),
    "ingest": (
        "opsd_eval.ingest", "turn another harness's logs into a sample set",
        "opsd-eval ingest out/samples_gsm8k_2026-01-01.jsonl --out sets/theirs",
    ),
    "audit": (
        "opsd_eval.audit", "look for what would make the numbers meaningless", "opsd-eval audit sets/base sets/tuned",
    ),
    "grade": (
        "opsd_eval.grading", "extract and judge the answers (strict and relaxed)", "opsd-eval grade sets/base",
    ),
    "measure": (
        "opsd_eval.measure", "compute metrics, one number a problem, with intervals",
        "opsd-eval measure sets/base --metric pass@k --metric marker_rate",
    ),
    "compare": (
        "opsd_eval.compare", "paired differences between two (or three) sets over the same problems",
        "opsd-eval compare sets/base sets/tuned --margin 0.02",
    ),
    "report": (
        "opsd_eval.report", "one HTML page, a scorecard and tables",
        "opsd-eval report sets/base sets/tuned --out report",
    ),
    "probe": (
        "opsd_eval.probe", "ask a model for its answer part-way through each completion",
        "opsd-eval probe sets/base --model opsd_eval/testbed/bases/hunch_r10_s0",
    ),
    "doctor": (
        "opsd_eval.doctor", "name the pitfalls of a harness configuration before GPU hours are spent",
        "opsd-eval doctor my_task.yaml",
    ),
    "list": (
        "opsd_eval.listing", "list metrics, benchmarks, engines or log formats", "opsd-eval list metrics",
    ),
}  # fmt: skip

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
    for name, (module, summary, example) in VERBS.items():
        command = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == verb:
            importlib.import_module(module).add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, or 2 with one message for a mistake of the user's or a disk that refuses.

    SIGTERM and Ctrl-C end the verb with what is finished on disk: exit codes 143 and 130.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in arguments if not word.startswith("-")), None)
    try:
        with terminable():
            args = build_parser(verb if verb in VERBS else None).parse_args(arguments)
            return importlib.import_module(VERBS[args.verb][0]).run(args)
    except ValueError as error:
        print(f"opsd-eval: {error}", file=sys.stderr)
        return 2
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
