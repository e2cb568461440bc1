import os
import signal
import subprocess
import sys
import time

import pytest
from engine_fixtures import byte_tokenizer, tiny_model

from opsd_eval import cli
from opsd_eval.engines import Completion, Sampling
from opsd_eval.prompts import student_prompt_ids
from opsd_eval.records import Problem, load_sample_set, new_run_record, read_jsonl, read_run, sha256_ids
from opsd_eval.sampling import locked, sample_benchmark

PROBLEMS = [Problem(f"mine/{i}", f"What is {i} + {i}?", str(2 * i), benchmark="jsonl:mine") for i in range(6)]


class Echo:
    """Answers every request with its draw's digit and the end token; may break after some rows."""

    def __init__(self, breaks_after=None, error=RuntimeError, drops=0):
        self.breaks_after, self.error, self.drops, self.asked = breaks_after, error, drops, []

    def generate(self, requests, *, sampling, logprobs=False):
        requests = list(requests)
        self.asked = [(r.problem_id, r.draw) for r in requests]
        for number, request in enumerate(requests[: len(requests) - self.drops]):
            if number == self.breaks_after:
                raise self.error("broken")
            yield Completion(request.problem_id, request.draw, (290, 19 + request.draw, 2), "stop")


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def sample(out, engine, tokenizer, n=3, problems=PROBLEMS, **changes):
    values = {"seed": 0, "max_new_tokens": 8, **changes}
    run = new_run_record("x", "samples", model={"path": "tiny"})
    return sample_benchmark(engine, problems, n=n, sampling=Sampling(**values), out=out, run=run, tokenizer=tokenizer)


def test_set_on_disk(tmp_path, tokenizer):
    found = load_sample_set(sample(tmp_path / "set", Echo(), tokenizer))
    assert list(found.problems.values()) == PROBLEMS
    assert {key: [s.draw for s in draws] for key, draws in found.samples.items()} == {
        p.problem_id: [0, 1, 2] for p in PROBLEMS
    }
    one = found.samples["mine/3"][1]
    assert one.text == "<think>" + tokenizer.decode([20]) and list(one.token_ids) == [290, 20, 2] and one.n_tokens == 3
    assert one.finish_reason == "stop"
    assert one.prompt_sha256 == sha256_ids(student_prompt_ids(tokenizer, PROBLEMS[3]))
    assert found.run.sampling["max_new_tokens"] == 8 and found.run.config["n"] == 3 and found.run.seed == 0
    engine = Echo()
    sample(tmp_path / "set", engine, tokenizer)
    assert engine.asked == []  # nothing left to do


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_was_finished_is_kept_and_resumed(tmp_path, tokenizer, error):
    with pytest.raises(error):
        sample(tmp_path, Echo(breaks_after=7, error=error), tokenizer)
    assert len(list(read_jsonl(tmp_path / "samples.jsonl"))) == 7
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"problem_id": "mine/5", "dr')  # a line torn by a kill
    engine = Echo()
    sample(tmp_path, engine, tokenizer)
    assert len(engine.asked) == 18 - 7
    assert sum(len(draws) for draws in load_sample_set(tmp_path).samples.values()) == 18


def test_engine_that_forgets_rows_is_an_error_that_says_how_many(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"no completion for 2 of 18 requests \(mine/5 draw 1"):
        sample(tmp_path, Echo(drops=2), tokenizer)
    assert len(list(read_jsonl(tmp_path / "samples.jsonl"))) == 16


def test_other_settings_are_refused_by_name(tmp_path, tokenizer):
    sample(tmp_path, Echo(), tokenizer)
    with pytest.raises(ValueError, match=r"config.n: 3 there, 4 now"):
        sample(tmp_path, Echo(), tokenizer, n=4)
    with pytest.raises(ValueError, match=r"sampling.temperature: 1.0 there, 0.5 now"):
        sample(tmp_path, Echo(), tokenizer, temperature=0.5)
    with pytest.raises(ValueError, match=r"seed: 0 there, 1 now"):
        sample(tmp_path, Echo(), tokenizer, seed=1)
    with pytest.raises(ValueError, match=r"6 problems and 2 were given"):
        sample(tmp_path, Echo(), tokenizer, problems=PROBLEMS[:2])
    with pytest.raises(ValueError, match="n is 0"):
        sample(tmp_path / "b", Echo(), tokenizer, n=0)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"no run.json"):
        sample(tmp_path, Echo(), tokenizer)


def test_second_writer_is_refused(tmp_path, tokenizer):
    code = "import sys, time; from pathlib import Path; from opsd_eval.sampling import locked\n"
    code += f"with locked(Path({str(tmp_path)!r})):\n    print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"being sampled by process {holder.pid}"):
            sample(tmp_path, Echo(), tokenizer)
    finally:
        holder.kill()
        holder.communicate()
    with locked(tmp_path):  # the kernel let the dead process's lock go
        pass


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("model")
    tiny_model(max_position_embeddings=128).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(model_folder, out, *more):
    questions = out.parent / "questions.jsonl"
    questions.write_text("".join(f'{{"question": "{i}+{i}?", "answer": "{2 * i}"}}\n' for i in range(40)))
    return ["sample", str(model_folder), f"jsonl:{questions}", "--out", str(out), "--batch-size", "4", *more]


def test_command_killed_and_repeated_gives_the_uninterrupted_set(tmp_path, model_folder):
    assert cli.main(arguments(model_folder, tmp_path / "whole", "--n", "3", "--max-new-tokens", "20")) == 0
    again = arguments(model_folder, tmp_path / "parts", "--n", "3", "--max-new-tokens", "20")
    process = subprocess.Popen(
        [sys.executable, "-m", "opsd_eval.cli", *again], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None and not count(tmp_path / "parts"):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert cli.main(again) == 0
    whole, parts = (load_sample_set(tmp_path / name) for name in ("whole", "parts"))
    assert whole.samples == parts.samples and sum(map(len, parts.samples.values())) == 120


def test_terminated_keeps_what_was_finished(tmp_path, tokenizer):
    class Terminated(Echo):
        def generate(self, requests, *, sampling, logprobs=False):
            for completion in super().generate(requests, sampling=sampling):
                yield completion
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        sample(tmp_path, Terminated(), tokenizer)
    assert stopped.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    assert count(tmp_path) == 1


def count(folder):
    path = folder / "samples.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_command_errors(tmp_path, model_folder, capsys):
    def message(*command):
        assert cli.main(list(command)) == 2
        return capsys.readouterr().err

    base = arguments(model_folder, tmp_path / "set")
    assert "exceed the model's context of 128" in message(*base, "--max-new-tokens", "500")
    assert "Did you mean 'transformers'" in message(*base, "--engine", "transformer")
    assert "temperature is -1.0; it must be 0" in message(*base, "--temperature", "-1")
    assert "no such folder" in message("sample", str(tmp_path / "none"), *base[2:])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "lacks config.json, tokenizer_config.json, model.safetensors" in message("sample", str(empty), *base[2:])
    assert not (tmp_path / "set" / "samples.jsonl").exists()


def test_a_shipped_base_has_a_name(tmp_path, capsys):
    from opsd_eval.testbed import base_path

    command = ["sample", "testbed:hunch_r10_s0", "testbed.hunch_r10.id", "--n", "1", "--limit", "1", "--max-new-tokens", "4"]
    assert cli.main([*command, "--out", str(tmp_path / "set")]) == 0
    assert read_run(tmp_path / "set").model["path"] == str(base_path("hunch_r10", 0))
    assert cli.main(["sample", "testbed:hunch", *command[2:], "--out", str(tmp_path / "other")]) == 2
    assert "testbed:<world>_s<seed>" in capsys.readouterr().err


def test_hub_id_without_network_says_what_to_do(tmp_path, model_folder, capsys, monkeypatch):
    import transformers

    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    assert cli.main(["sample", "someone/model", *arguments(model_folder, tmp_path / "set")[2:]]) == 2
    error = capsys.readouterr().err
    assert "tokenizer.json" in error and "Copy the model folder to this machine" in error and "HF_HOME" in error
