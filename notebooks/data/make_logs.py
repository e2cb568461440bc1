"""Write the two logs that ``04_your_own_logs`` reads: ``python notebooks/data/make_logs.py BEFORE AFTER``.

BEFORE and AFTER are checkpoints that the stock ``lm_eval --model hf`` samples from: the testbed's shipped base
(``opsd_eval/testbed/bases/hunch_r10_s0``) and a student of it after 40 steps of standard OPSD (the study's
``hunch_r10_s0_standard_t1`` was used; ``make demo`` leaves the like
in ``runs/demo/hunch_r10_s0_standard_t1/checkpoints/step-000040``). The sample logs are the harness's own; of its
results only the fields in KEEP stay, because the rest describes the machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from opsd_eval import harness_tasks

TASK = "opsd_testbed_hunch_r10_id"
KEEP = ("results", "versions", "n-shot", "higher_is_better", "n-samples")
HERE = Path(__file__).parent


def write_log(name: str, model: Path, *, problems: int, draws: int) -> None:
    """The harness's samples and results for one checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = Path(folder, "tasks")
        harness_tasks.main(["--k", str(draws), "--out", str(tasks)])
        command = [
            sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
            "--include_path", str(tasks), "--tasks", TASK, "--metadata", json.dumps({"problems": problems}),
            "--apply_chat_template", "--batch_size", "48", "--device", "cpu", "--log_samples", "--output_path",
            folder + "/out",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        out = HERE / name
        out.mkdir(exist_ok=True)
        for path in Path(folder, "out").rglob("*.json*"):
            text = path.read_text(encoding="utf-8")
            if path.name.startswith("results_"):
                log = json.loads(text)
                text = json.dumps({key: log[key] for key in KEEP if key in log}, indent=1) + "\n"
            (out / path.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--draws", type=int, default=4)
    args = parser.parse_args()
    for label, path in (("lm_eval_base", args.before), ("lm_eval_standard", args.after)):
        write_log(label, path, problems=args.problems, draws=args.draws)
