import json

import pytest

from analyses import smollm2_run
from opsd_eval.harness import document
from opsd_eval.jsonl import append_jsonl
from opsd_eval.records import Problem


@pytest.fixture
def settings(tmp_path, make_set):
    found = smollm2_run.parse(["--out", str(tmp_path), "--model", str(tmp_path / "model"), "--draws", "4"])
    for arm in ("base", "standard", "purified"):
        make_set(tmp_path / "sets" / arm, arm=arm)
    for arm in smollm2_run.ARMS:
        append_jsonl(tmp_path / arm / "train.jsonl", [
            {"step": step, "loss": 0.1, "kl_base": 0.01, "diagnostics": {f"{key}_plain": 0.5 for key in smollm2_run.SHOWN}}
            for step in (1, 2)
        ])  # fmt: skip
    return found


def test_the_comparison_names_every_arm_and_contrast(settings):
    text = smollm2_run.compare(settings)
    for line in ("base:", "standard:", "purified:", "standard - base:", "purified - base:", "purified - standard:"):
        assert f"{line}\n" in text
    assert "avg@4" in text and "[" in text


def test_the_plot_is_written(settings):
    assert smollm2_run.plot(settings).read_bytes()[:4] == b"\x89PNG"


def test_speeds_are_not_measured_again(settings):
    (settings.out / "speed.json").write_text('{"rollouts": {"ratio": 1.0}}')
    assert smollm2_run.speed(settings) == {"rollouts": {"ratio": 1.0}}  # no model is there to load


def write_log(folder, printed):
    """A harness log of one problem, two draws, one right; the results file prints ``printed``."""
    problem = Problem("p/1", "1 + 1 =", answer="2", benchmark="reasoning_gym.chain_sum")
    doc = document(problem)
    texts = ["\\boxed{2}", "\\boxed{3}"]
    row = {"doc_id": 0, "doc": doc, "target": "2", "arguments": {"gen_args_0": {"arg_0": "1 + 1 =", "arg_1": {}}},
           "resps": [texts], "filtered_resps": [texts], "filter": "all_draws", "metrics": ["avg@2"],
           "doc_hash": "a", "prompt_hash": "b", "target_hash": "c", "avg@2": printed}  # fmt: skip
    folder.mkdir(parents=True)
    append_jsonl(folder / "samples_opsd_rg_chain_sum_2026-11-25T00-00-00.000000.jsonl", [row])
    (folder / "results_2026-11-25T00-00-00.000000.json").write_text(json.dumps(
        {"results": {"opsd_rg_chain_sum": {"avg@2,all_draws": printed, "avg@2_stderr,all_draws": "N/A"}},
         "configs": {"opsd_rg_chain_sum": {"repeats": 2}}}
    ))  # fmt: skip


def test_a_harness_log_that_is_there_is_ingested_to_the_printed_numbers(settings):
    write_log(settings.out / "harness" / "purified" / "model", 0.5)
    assert smollm2_run.harness(settings, "purified")["avg@2"] == 0.5


def test_a_harness_log_that_gives_other_numbers_ends_the_run(settings):
    write_log(settings.out / "harness" / "purified" / "model", 0.75)
    with pytest.raises(SystemExit, match=r"printed avg@2 = 0\.75, its log gives 0\.5"):
        smollm2_run.harness(settings, "purified")


def test_a_failing_stage_ends_the_run_with_its_command(settings):
    with pytest.raises(SystemExit, match=r"exit code 2: .*opsd_train\.cli nonsense"):
        smollm2_run._python("opsd_train.cli", "nonsense")


def test_missing_weights_are_one_line(tmp_path, monkeypatch, capsys):
    from opsd_eval import smollm2

    monkeypatch.setattr(smollm2, "_PACKAGE", "no_such_package_here")
    assert smollm2_run.main(["--out", str(tmp_path / "out"), "--model", str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("smollm2_run: the weights of SmolLM2 are not installed")
