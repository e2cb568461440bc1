"""``opsd-train``: run a recipe, look at prompts or at one token, list the choices, estimate a cost, train a base."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_eval.secrets import REMOTE_CODE
from opsd_eval.startup import TRANSFORMERS, bring_in
from opsd_eval.visible import visible

if TYPE_CHECKING:
    from opsd_eval.records import Problem
    from opsd_train.config import TrainConfig

_START = """\
Train a student on its own samples, towards what the same model says when it has read a reference solution.

  opsd-train list                                        recipes, targets, contexts, divergences, weightings
  opsd-train contexts testbed                            the prompts of one problem, exactly as tokenised
  opsd-train token testbed --after "maybe 57"            what every role and the target say comes next
  opsd-train run testbed --out runs/try/first            purified OPSD on a shipped base (a minute on one thread)
  opsd-train run testbed --method.target standard --optim.steps 50 --out runs/try/second
  opsd-train run testbed --out runs/try/first --resume   go on after a kill, to the same numbers
"""
_RUN = """\
Train into a run folder: run.json (written first), train.jsonl (a line a step), checkpoints/step-NNNNNN.

Any field of the config can be given as --group.field value; all are listed below with their defaults. A recipe
is a complete config; `opsd-train list` shows them. Exit codes: 0 done, 1 stopped by a health check, 2 bad input,
3 another process of the run has ended, 130 and 143 stopped by Ctrl-C and SIGTERM; after 1, 130 and 143 the state is
saved, after 3 the last checkpoint is, and --resume goes on.
Several GPUs: accelerate launch --config_file configs/accelerate/ddp.yaml -m opsd_train.cli run RECIPE ...
(fsdp.yaml beside it shards weights, gradients and optimiser state, as --run.sharding full does.)
Two CPU processes: ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc-per-node 2 -m opsd_train.cli run ...
(train.jsonl says in how many processes each step really ran).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    args, rest = parser.parse_known_args(arguments)
    takes_overrides = args.command in ("run", "contexts", "token", "cost")
    if rest and not takes_overrides:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        return args.body(args, rest) if takes_overrides else args.body(args)
    except ValueError as error:
        print(f"opsd-train {args.command}: {visible(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"opsd-train {args.command}: {error}; check the path, its permissions and free space", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="opsd-train", description=_START, formatter_class=raw, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="train a recipe into a run folder", description=_RUN, formatter_class=raw, allow_abbrev=False,
        epilog=_fields(), usage="opsd-train run RECIPE --out DIR [--resume] [--group.field value ...]",
    )  # fmt: skip
    run.add_argument("recipe", metavar="RECIPE", help="a name from `opsd-train list`")
    run.add_argument("--out", type=Path, required=True, help="the run's folder, e.g. runs/STUDY/RUN")
    run.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint, if there is one")
    run.set_defaults(body=_run)

    contexts = commands.add_parser(
        "contexts", help="print the prompts of one problem as tokenised", allow_abbrev=False,
        description="Print every role's prompt of one problem: text, token ids and pieces. Takes the same overrides.",
    )  # fmt: skip
    contexts.add_argument("recipe", metavar="RECIPE")
    contexts.add_argument("--problem", help="problem_id; default: the first of the run")
    contexts.set_defaults(body=_contexts)

    token = commands.add_parser(
        "token", help="what every role and the target say about the next token", allow_abbrev=False,
        description="Print each role's and the target's probabilities of the token after a given beginning of the "
        "completion, before any training. Takes the same overrides as run.",
    )  # fmt: skip
    token.add_argument("recipe", metavar="RECIPE")
    token.add_argument("--problem", help="problem_id; default: the first of the run")
    token.add_argument("--after", default="", help="the completion so far (default: nothing)")
    token.add_argument("--top", type=int, default=5, help="likeliest tokens of each role to show (default 5)")
    token.set_defaults(body=_token)

    cost = commands.add_parser(
        "cost", help="FLOPs, bytes, seconds a step", allow_abbrev=False,
        description="Estimate a recipe's cost a step on a named GPU. Takes the same overrides as run.",
    )  # fmt: skip
    _cost_arguments(cost)
    cost.set_defaults(body=_cost)

    listing = commands.add_parser("list", help="recipes and what the method can be made of", allow_abbrev=False)
    listing.set_defaults(body=_list)

    pretrain = commands.add_parser(
        "pretrain", help="train a testbed base from nothing", allow_abbrev=False,
        description="Train a testbed world's base model from nothing, deterministic for a seed.",
    )  # fmt: skip
    from opsd_train import pretrain as base

    base.add_arguments(pretrain)
    pretrain.set_defaults(body=base.run)
    return parser


def _fields() -> str:
    from opsd_train.config import field_docs

    rows = [f"  --{name} ({kind}, {default!r})\n      {doc}" for name, (kind, default, doc) in field_docs().items()]
    return "fields of the config, their types and the defaults a recipe starts from:\n" + "\n".join(rows)


def build_config(recipe: str, overrides: Sequence[str]) -> TrainConfig:
    """A recipe's config with command-line overrides applied and every field checked."""
    from opsd_eval.names import lookup
    from opsd_train.config import apply_overrides, validate
    from opsd_train.recipes import RECIPES

    return validate(apply_overrides(lookup("recipe", recipe, RECIPES)(), overrides))


def _run(args: argparse.Namespace, overrides: list[str]) -> int:
    config = build_config(args.recipe, overrides)
    for what, note in (("model", config.model.unverified), ("data", config.data.unverified)):
        if note:
            print(f"opsd-train: {what}: {note}", file=sys.stderr)
    if config.model.trust_remote_code:
        print(f"opsd-train: {REMOTE_CODE}", file=sys.stderr)
    bring_in(*TRANSFORMERS, "opsd_train.trainer")
    from accelerate import PartialState

    from opsd_train.stopping import Interrupted, PeerLost, Unhealthy
    from opsd_train.trainer import train

    try:
        train(config, args.out, resume=args.resume)
    except Interrupted as stop:
        print(f"\nopsd-train run: {stop}", file=sys.stderr)
        return stop.exit_code
    except Unhealthy as stop:
        print(f"\nopsd-train run: {stop}", file=sys.stderr)
        return 1
    except PeerLost as stop:
        print(f"\nopsd-train run: {stop}", file=sys.stderr)
        return 3
    PartialState().destroy_process_group()
    return 0


def _prompts(args: argparse.Namespace, config: TrainConfig, tokenizer: Any) -> tuple[Problem, dict[str, list[int]]]:
    """The problem asked for, or the run's first, and every role's prompt ids for it."""
    from opsd_train.contexts import role_prompts
    from opsd_train.data import load_problems, thinking_of

    problems = load_problems(config.data)
    found = [p for p in problems if args.problem in (None, p.problem_id)]
    if not found:
        raise ValueError(f"no problem {args.problem!r} among the {len(problems)} of {config.data.benchmark}")
    prompts = role_prompts(
        found[0], tokenizer=tokenizer, context=config.method.context, pool=problems,
        thinking=thinking_of(config.data), seed=config.run.seed,
    )  # fmt: skip
    return found[0], prompts


def _contexts(args: argparse.Namespace, overrides: list[str]) -> int:
    from opsd_train.policy import load_tokenizer

    config = build_config(args.recipe, overrides)
    tokenizer = load_tokenizer(config.model)
    problem, prompts = _prompts(args, config, tokenizer)
    print(f"problem {problem.problem_id}, context {config.method.context}")
    for role, ids in prompts.items():
        same = " (exactly the student's ids)" if role == "base" and ids == prompts["student"] else ""
        print(f"\n=== {role}: {len(ids)} tokens{same}")
        print("text  ", repr(tokenizer.decode(ids)))
        print("ids   ", " ".join(map(str, ids)))
        print("pieces", " ".join(repr(tokenizer.decode([i])) for i in ids))
    return 0


def _token(args: argparse.Namespace, overrides: list[str]) -> int:
    from opsd_train.objective import loss_method
    from opsd_train.onetoken import as_text, next_token_logp, token_rows
    from opsd_train.policy import load_policy, load_tokenizer

    config = build_config(args.recipe, overrides)
    tokenizer = load_tokenizer(config.model)
    problem, prompts = _prompts(args, config, tokenizer)
    policy = load_policy(config.model, config.method, tokenizer, seed=config.run.seed)
    beginning = tokenizer.encode(args.after, add_special_tokens=False)
    logp = next_token_logp(policy, prompts, beginning, method=loss_method(config.method))
    rows = token_rows(logp, tokenizer, top=args.top)
    print(f"problem {problem.problem_id}: {problem.question!r}, context {config.method.context}")
    print(f"after {tokenizer.decode(beginning)!r}, target {config.method.target}; probabilities, then nats\n")
    print(as_text(rows))
    return 0


def _list(_args: argparse.Namespace) -> int:
    from opsd_train.contexts import CONTEXTS
    from opsd_train.divergence import CLIPS, DIVERGENCES
    from opsd_train.recipes import ONE_GPU, RECIPES, describe
    from opsd_train.targets import TARGETS
    from opsd_train.weighting import WEIGHTINGS

    def first_line(item: Any) -> str:
        text = item if isinstance(item, str) else item.__doc__ or ""
        return text.strip().splitlines()[0].partition(" Source:")[0]

    sections = {
        f"recipes (published ones also as NAME{ONE_GPU})": {
            name: describe(name) for name in RECIPES if not name.endswith(ONE_GPU)
        },
        "targets (--method.target)": {
            name: f"{first_line(t.combine)} needs {', '.join(sorted(t.needs))}" for name, t in TARGETS.items()
        },
        "contexts (--method.context)": {name: first_line(c.doc) for name, c in CONTEXTS.items()},
        "divergences (--method.divergence)": {name: first_line(f) for name, f in DIVERGENCES.items()},
        "weightings (--method.weighting)": {name: first_line(f) for name, f in WEIGHTINGS.items()},
        "clips (--method.clip)": dict.fromkeys(CLIPS, ""),
    }
    for title, rows in sections.items():
        print(f"{title}:")
        for name, text in rows.items():
            print(f"  {name:<42} {text}".rstrip())
    return 0


def _cost_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("--gpu", default="h100", help="name of the GPU to estimate seconds for (default h100)")
    parser.add_argument("--gpus", type=int, default=1, help="how many share the step's rollouts (default 1)")
    parser.add_argument("--utilisation", type=float, default=0.35, help="assumed share of peak FLOPs (default 0.35)")
    parser.add_argument("--question-tokens", type=int, default=200, help="assumed length of a prompt (default 200)")
    parser.add_argument("--reference-tokens", type=int, default=1000, help="and of a reference (default 1,000)")


def _cost(args: argparse.Namespace, overrides: list[str]) -> int:
    from opsd_train.cost import Lengths, cost_sheet

    config = build_config(args.recipe, overrides)
    lengths = Lengths(args.question_tokens, args.reference_tokens, config.rollout.max_new_tokens)
    print(cost_sheet(config, gpu=args.gpu, gpus=args.gpus, utilisation=args.utilisation, lengths=lengths))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
