import json

import pytest

from analyses import smollm2_run
from opsd_eval.jsonl import append_jsonl


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


def test_what_is_done_is_not_done_again(settings):
    (settings.out / "speed.json").write_text('{"requests": 3}')
    assert smollm2_run.speed(settings) == {"requests": 3}  # no model is there to load
    results = settings.out / "harness" / "purified" / "model"
    results.mkdir(parents=True)
    (results / "results_1.json").write_text(json.dumps({"results": {"opsd_rg_chain_sum": {"avg@8,all_draws": 0.5}}}))
    assert smollm2_run.harness(settings, "purified") == {"avg@8": 0.5}


def test_a_failing_stage_ends_the_run_with_its_command(settings):
    with pytest.raises(SystemExit, match=r"exit code 2: .*opsd_train\.cli nonsense"):
        smollm2_run._python("opsd_train.cli", "nonsense")


def test_missing_weights_are_one_line(tmp_path, monkeypatch, capsys):
    from opsd_eval import smollm2

    monkeypatch.setattr(smollm2, "_PACKAGE", "no_such_package_here")
    assert smollm2_run.main(["--out", str(tmp_path / "out"), "--model", str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("smollm2_run: the weights of SmolLM2 are not installed")
