"""Keys never reach a record, whichever way they came in."""

from __future__ import annotations

import sys

import pytest

from opsd_eval.records import new_run_record, write_run
from opsd_eval.secrets import redact
from opsd_train.cli import main

KEY = "sk-proj-0123456789abcdefABCDEF"
ODD = "correct horse battery"


@pytest.mark.parametrize(
    "argv",
    [
        ["--api-key", ODD], [f"--api-key={KEY}"], ["--api_key", KEY], ["--token", ODD], ["--hf-token", ODD],
        ["--header", f"Authorization: Bearer {KEY}"], [f"https://me:{KEY}@host/v1"], [f"https://host/v1?key={KEY}"],
        ["--model_args", f"model=x,api_key={KEY},n=1"], [KEY], ["hf_ABCDEFGHIJKLMNOPQRSTUV"],
        ["ghp_" + "a1B2" * 9], ["--openai-api-key", KEY],
    ],
)  # fmt: skip
def test_command_lines_lose_their_keys(argv):
    shown = " ".join(redact(argv))
    assert "[removed]" in shown
    assert all(secret not in shown for secret in (KEY, ODD, "hf_ABC", "ghp_a1"))


@pytest.mark.parametrize(
    "harmless",
    [
        ["--rollout.max_new_tokens", "24", "--data.max_prompt_tokens", "10"], ["--url", "http://localhost:8000/v1"],
        ["--out", "runs/skirt-hf_set"], {"max_tokens": 5, "eos_token": "</s>", "token_ids": [1, 2], "key": "value"},
        {"path": "Qwen/Qwen3-1.7B", "sha256": "a" * 64},
    ],
)  # fmt: skip
def test_everything_else_stays(harmless):
    assert redact(harmless) == harmless


def test_a_key_of_the_environment_is_known_by_its_value(monkeypatch, tmp_path):
    monkeypatch.setenv("OPSD_API_KEY", "a-key-of-no-known-form")
    monkeypatch.setattr(sys, "argv", ["x", "--note", "a-key-of-no-known-form"])
    run = new_run_record("x", "samples", config={"note": "is a-key-of-no-known-form", "deep": [{"api_key": "q"}]})
    write_run(tmp_path, run)
    text = (tmp_path / "run.json").read_text()
    assert "a-key-of-no-known-form" not in text and '"q"' not in text and "--note" in text


def test_no_file_of_a_training_run_holds_the_key(tmp_path, monkeypatch, capfd):
    """The key in the environment, and a careless user who also types it: nothing under the run folder has it."""

    def train(out, *more):
        command = [
            "run", "testbed", "--optim.steps", "1", "--optim.batch_size", "2", "--rollout.max_new_tokens", "4",
            "--data.limit", "4", "--run.name", f"my key {KEY}", "--out", str(out), *more,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["opsd-train", *command])
        return main(command)

    monkeypatch.setenv("OPSD_API_KEY", KEY)
    assert train(tmp_path / "r") == 0
    files = [p for p in (tmp_path / "r").rglob("*") if p.is_file()]
    assert len(files) > 5
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
    capfd.readouterr()
    assert train(tmp_path / "s", "--rollout.engine", "server", "--rollout.server_url", f"http://me:{KEY}@h/v1") == 2
    assert KEY not in "".join(capfd.readouterr()) and not (tmp_path / "s").exists()
