"""Write the harness's task files, for the shipped K = 8 or for any other number of draws.

``python -m opsd_eval.harness_tasks --k 16 --out DIR`` writes the same tasks with 16 draws a problem; run them with
``lm_eval --include_path DIR --tasks opsd_testbed_id --apply_chat_template …``. The folder ``lm_eval_tasks/`` is this
program's output for K = 8 (a test compares them), because the harness has no option that changes ``repeats``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from opsd_eval.harness import task_metrics

SHIPPED = Path(__file__).parent / "lm_eval_tasks"
OUT_OF_DISTRIBUTION = ("longer", "larger", "heldout_mix")

#: (longest completion, temperature, top-p) by kind of benchmark: a testbed base has 256 positions in all; hub
#: benchmarks get long thinking at the sampling settings of the Qwen3 model cards.
SAMPLING = {"testbed": (128, 1.0, 1.0), "reasoning_gym": (512, 1.0, 1.0), "hf": (32768, 0.6, 0.95)}


def task_names() -> dict[str, str]:
    """Task name → benchmark name, for every task written."""
    from opsd_eval.benchmarks import HUB, REASONING_GYM_FAMILIES
    from opsd_eval.testbed import WORLDS

    names = {
        f"opsd_testbed_{world}_{split}": f"testbed.{world}.{split}"
        for world in WORLDS
        for split in ("id", *OUT_OF_DISTRIBUTION)
    }
    names |= {f"opsd_rg_{family}": f"reasoning_gym.{family}" for family in REASONING_GYM_FAMILIES}
    return names | {f"opsd_{name}": f"hf:{name}" for name in HUB}


def groups() -> dict[str, list[str]]:
    """Group name → its tasks. The gap between the two testbed groups is not a harness number: see ``compare``."""
    names = list(task_names())
    testbed = [name for name in names if name.startswith("opsd_testbed_")]
    return {
        "opsd_testbed_id": [name for name in testbed if name.endswith("_id")],
        "opsd_testbed_ood": [name for name in testbed if not name.endswith("_id")],
        "opsd_reasoning_gym": [name for name in names if name.startswith("opsd_rg_")],
        "opsd_competition": [f"opsd_{name}" for name in ("aime24", "aime25", "hmmt25", "math500")],
        "opsd_math": [name for name, benchmark in task_names().items() if benchmark.startswith("hf:")],
    }


def metric_lines(k: int) -> str:
    """The ``metric_list``: each metric, then the metric that fills its error bar in the printed table."""
    lines = []
    for metric in task_metrics(k):
        direction = {"higher": "true", "lower": "false"}.get(metric.better)
        for name, function in ((metric.name, "mean_over_problems"), (f"{metric.name}_stderr", "standard_error")):
            lines += [
                f'  - metric: "{name}"',
                f"    aggregation: !function opsd_eval.harness.{function}",
            ]
            lines += [f"    higher_is_better: {direction}"] if direction else []
    return "\n".join(lines)


def task_text(name: str, benchmark: str, k: int) -> str:
    """One task file."""
    tokens, temperature, top_p = SAMPLING[benchmark.replace(":", ".").split(".")[0]]
    return f"""# Written by opsd_eval/harness_tasks.py; change that file, not this one.
task: {name}
custom_dataset: !function opsd_eval.harness.load
output_type: generate_until
test_split: test
doc_to_text: !function opsd_eval.harness.doc_to_text
doc_to_target: !function opsd_eval.harness.doc_to_target
process_results: !function opsd_eval.harness.process_results
num_fewshot: 0
repeats: {k}
generation_kwargs:
  until: []
  do_sample: true
  temperature: {temperature}
  top_p: {top_p}
  max_gen_toks: {tokens}
  seed: null
filter_list:
  - name: all_draws
    filter:
      - function: custom
        filter_fn: !function opsd_eval.harness.keep_all
metric_list:
{metric_lines(k)}
metadata:
  version: 1
  benchmark: {benchmark}
"""


def group_text(name: str, tasks: list[str], k: int) -> str:
    """One group file: unweighted means over the tasks."""
    listed = "\n".join(f"  - {task}" for task in tasks)
    means = "\n".join(
        f'  - metric: "{metric.name}"\n    aggregation: mean\n    weight_by_size: false\n    filter_list: [all_draws]'
        for metric in task_metrics(k)
    )
    head = "# Written by opsd_eval/harness_tasks.py; change that file, not this one.\n"
    return f"{head}group: {name}\ntask:\n{listed}\naggregate_metric_list:\n{means}\nmetadata:\n  version: 1\n"


def task_files(k: int) -> Mapping[str, str]:
    """File name → text of every task and group for K draws."""
    if k < 1:
        raise ValueError(f"k is {k}; a task needs at least 1 draw a problem")
    files = {f"{name}.yaml": task_text(name, benchmark, k) for name, benchmark in task_names().items()}
    return files | {f"{name}_group.yaml": group_text(name, tasks, k) for name, tasks in groups().items()}


def main(argv: list[str] | None = None) -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=8, help="draws a problem (default 8)")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder to write to (default: the shipped one)")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in task_files(arguments.k).items():
        (arguments.out / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
