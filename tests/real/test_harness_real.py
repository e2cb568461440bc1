"""The stock lm-eval command on our tasks: prompts, numbers and logs agree with what we compute offline.

``--model local-completions`` is in ``test_server_real.py``, beside the server that it needs.
"""

from __future__ import annotations

import pytest

from opsd_eval.benchmarks import load_benchmark
from opsd_eval.prompts import student_prompt_ids
from opsd_eval.records import RunRecord, Sample, append_samples, write_problems, write_run

from .harness import assert_equal_offline, assert_ingests_to, lm_eval, logged
from .short import SUMS

pytestmark = pytest.mark.real
TASK = "opsd_testbed_hunch_r10_id"
N, K = 6, 8


@pytest.fixture(scope="module")
def base():
    from opsd_eval.testbed import base_path

    return base_path("hunch_r10", 0)


@pytest.fixture(scope="module")
def stock(base, tmp_path_factory):
    """``--model hf`` on a checkpoint of the testbed."""
    out = tmp_path_factory.mktemp("stock")
    numbers, printed = lm_eval(
        TASK, {"problems": N}, "--model", "hf", "--model_args", f"pretrained={base},dtype=float32",
        "--apply_chat_template", "--batch_size", "48", "--device", "cpu", out=out,
    )  # fmt: skip
    return out, numbers, printed


def test_printed_table_has_an_error_bar_for_every_metric(stock):
    _, numbers, printed = stock
    assert numbers["avg@8"] > 0.3  # the shipped base solves most of them: 0 would mean the prompt is wrong
    assert "N/A" not in printed
    assert numbers["avg@8_stderr"] > 0


def test_the_logged_samples_ingest_to_the_same_numbers(stock, tmp_path):
    out, numbers, _ = stock
    assert_ingests_to(numbers, out, tmp_path / "set")


def test_replayed_samples_score_the_same_in_the_harness(tmp_path):
    folder = tmp_path / "set"
    problems = load_benchmark("testbed.hunch_r10.id", limit=N)
    texts = [r"2 + 3 = 5 ; \boxed{%s}", r"wait 2 + 3 = 6 ; \boxed{6}", "no box for %s"]
    write_run(folder, RunRecord(name="replayed", kind="sample"))
    write_problems(folder, problems)
    append_samples(folder, [
        Sample(p.problem_id, d, text=texts[(i + d) % 3].replace("%s", str(p.answer)), n_tokens=None)
        for i, p in enumerate(problems) for d in range(K)
    ])  # fmt: skip
    numbers, _ = lm_eval(
        TASK, {"problems": N}, "--model", "opsd-replay", "--model_args", f"set={folder}", out=tmp_path / "out",
        module="opsd_eval.harness_replay",
    )  # fmt: skip
    assert_equal_offline(folder, numbers)


def test_vllm_through_the_harness_samples_smollm2_from_our_prompts(smollm2, tmp_path):
    """Needs the metadata-only entry of docs/real-models.md: the harness looks for a distribution named vllm."""
    from transformers import AutoTokenizer

    entry = tmp_path / "entry" / "vllm-0.32.0+cpu.dist-info"
    entry.mkdir(parents=True)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    numbers, printed = lm_eval(
        "opsd_rg_chain_sum", {"benchmark": SUMS, "problems": 2}, "--model", "vllm", "--model_args",
        # vLLM starts with a pass of as many tokens as it may batch: by default minutes of a CPU
        f"pretrained={smollm2},dtype=float32,max_model_len=512,max_num_batched_tokens=512,enforce_eager=True",
        "--apply_chat_template", "--gen_kwargs", '{"max_gen_toks": 16}', out=tmp_path / "out", PYTHONPATH=str(tmp_path / "entry"), VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
    )  # fmt: skip
    rows = logged(tmp_path / "out")
    table = [line for line in printed.splitlines() if line.startswith("|")]  # vLLM's own log says N/A of other things
    assert len(table) > 10 and not any("N/A" in line for line in table) and len(rows) == 2
    assert all(len(set(row["resps"][0])) > 1 for row in rows)  # the draws of a problem are different draws
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    problems = {p.problem_id: p for p in load_benchmark(SUMS, limit=2)}
    for row in rows:
        prompt = row["arguments"]["gen_args_0"]["arg_0"]
        expected = student_prompt_ids(tokenizer, problems[row["doc"]["problem_id"]])
        assert tokenizer(prompt, add_special_tokens=False)["input_ids"] == expected
    assert_ingests_to(numbers, tmp_path / "out", tmp_path / "set")


def test_the_harness_sends_the_prompt_ids_of_training_and_sampling(stock, base):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from opsd_train.contexts import role_prompts

    out, _, _ = stock
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = HFLM(pretrained=str(base), dtype="float32", device="cpu")
    problems = {p.problem_id: p for p in load_benchmark("testbed.hunch_r10.id", limit=N)}
    assert len(logged(out)) == N
    for row in logged(out):
        problem = problems[row["doc"]["problem_id"]]
        trained = role_prompts(
            problem, tokenizer=tokenizer, context="reference", pool=[problem], thinking={}, seed=0
        )["student"]  # fmt: skip
        prompt = row["arguments"]["gen_args_0"]["arg_0"]
        assert model.tok_encode(prompt) == student_prompt_ids(tokenizer, problem) == trained
