"""Every pitfall on a configuration that has it, silence on a sound one, nothing run while reading."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from opsd_eval.doctor import add_arguments, diagnose, run
from opsd_eval.doctor_advice import ADVICE
from opsd_eval.doctor_read import Function, arguments, literal, parse_options, read_yaml

SOUND_TASK = """\
task: mine
custom_dataset: !function opsd_eval.harness.load
output_type: generate_until
doc_to_text: "{{question}}"
num_fewshot: 0
repeats: 8
generation_kwargs: {until: [], do_sample: true, temperature: 0.7, max_gen_toks: 8192, seed: null}
filter_list:
  - name: all_samples
    filter: [{function: custom, filter_fn: !function opsd_eval.harness.keep_all}]
process_results: !function opsd_eval.harness.process_results
metric_list: [{metric: avg@8, aggregation: mean}]
"""
SOUND_RUN = (
    "lm_eval --model vllm --model_args pretrained=m,max_model_len=16384,seed=7 --tasks mine --include_path . "
    "--log_samples --output_path out --apply_chat_template"
)


@pytest.fixture
def task(tmp_path):
    def write(text=SOUND_TASK, **replace):
        for old, new in replace.items():
            text = text.replace(PARTS[old], new)
        path = tmp_path / "task.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


PARTS = {
    "filters": SOUND_TASK[SOUND_TASK.index("filter_list") : SOUND_TASK.index("process_results")],
    "kwargs": "{until: [], do_sample: true, temperature: 0.7, max_gen_toks: 8192, seed: null}",
    "metrics": "[{metric: avg@8, aggregation: mean}]",
    "repeats": "repeats: 8",
    "data": "custom_dataset: !function opsd_eval.harness.load",
    "name": "task: mine",
}


def names(*sources):
    return {p.pitfall: p for p in diagnose(sources)}


def test_a_sound_configuration_has_no_pitfall(task):
    assert diagnose([task()]) == []
    assert diagnose([task(), SOUND_RUN]) == []
    api = ("lm_eval --model local-completions --model_args model=m,base_url=http://localhost:8000/v1/completions "
           "--tasks mine --log_samples --output_path out --apply_chat_template")  # fmt: skip
    assert diagnose([task(), api]) == []


# --- tasks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "text", "pitfall", "level"),
    [
        ("filters", "", "take_first", "error"),
        ("filters", "filter_list: [{name: a, filter: [{function: take_first}]}]\n", "take_first", "error"),
        ("filters", "filter_list: [{name: a, filter: [{function: majority_vote}]}]\n", "majority_vote", "warning"),
        ("filters", "filter_list: [{filter: [{function: take_first_k, k: 4}]}]\n", "filter_loses_draws", "warning"),
        ("filters", "filter_list: [{filter: [{function: custom}]}, {filter: [{function: custom}]}]\n", "many_filters",
         "warning"),
        ("kwargs", "{do_sample: true, temperature: 0.7, max_gen_toks: 8192, seed: null}", "until", "error"),
        ("kwargs", "{until: [\"\\n\\n\"], do_sample: true, temperature: 1, max_gen_toks: 8192, seed: null}",
         "until_cuts", "error"),
        ("kwargs", "{until: [\"Question:\"], do_sample: true, temperature: 1, max_gen_toks: 8192, seed: null}",
         "until_cuts", "warning"),
        ("kwargs", "{until: [a, b, c, d, e], do_sample: true, temperature: 1, max_gen_toks: 8192, seed: null}",
         "stop_list", "warning"),
        ("kwargs", "{until: [], temperature: 0.7, max_gen_toks: 8192, seed: null}", "do_sample", "warning"),
        ("kwargs", "{until: [], do_sample: false, temperature: 0.7, max_gen_toks: 8192}", "do_sample_false", "error"),
        ("kwargs", "{until: [], do_sample: false, max_gen_toks: 8192}", "greedy_repeats", "error"),
        ("kwargs", "{until: [], max_gen_toks: 8192}", "greedy_repeats", "error"),
        ("kwargs", "{until: [], do_sample: true, temperature: 0.7, max_gen_toks: 8192}", "api_seed", "warning"),
        ("kwargs", "{until: [], do_sample: true, temperature: 0.7, max_gen_toks: 8192, seed: 7}", "fixed_seed", "error"),
        ("kwargs", "{until: [], do_sample: true, temperature: 0.7, seed: null}", "max_tokens", "error"),
        ("kwargs", "{until: [], do_sample: true, temperature: 0.7, max_gen_toks: 300, seed: null}", "max_tokens_small",
         "warning"),
        ("kwargs", "{until: [], do_sample: true, temperature: 1, max_gen_toks: 8192, max_length: 9, seed: null}",
         "max_length", "warning"),
        ("kwargs", "{until: [], do_sample: true, temperature: 1, max_gen_toks: 8192, n: 4, seed: null}", "n_in_kwargs",
         "error"),
        ("metrics", "[{metric: mine}]", "aggregation", "error"),
        ("metrics", "[{metric: mine, aggregation: !function a.b}]", "custom_aggregation", "info"),
        ("data", "dataset_path: json\ndataset_kwargs: {data_files: data/test.jsonl}", "relative_data", "warning"),
    ],
)  # fmt: skip
def test_task_pitfalls(task, part, text, pitfall, level):
    found = names(task(**{part: text}))
    assert pitfall in found and found[pitfall].level == level
    assert found[pitfall].why and found[pitfall].fix


def test_greedy_by_default_is_said(task):
    assert names(task(repeats="repeats: 1", kwargs="{until: [], max_gen_toks: 8192}"))["greedy_default"].level == "info"


def test_line_numbers_point_at_the_setting(task):
    found = names(task(kwargs="\n  until: [\"\\n\\n\"]\n  do_sample: false\n  temperature: 0.5\n  max_gen_toks: 9000"))
    assert found["until_cuts"].where.endswith("task.yaml:8 generation_kwargs.until")
    assert found["do_sample_false"].where.endswith("task.yaml:9 generation_kwargs.do_sample")


def test_majority_vote_then_take_first_is_sound(task):
    steps = "filter_list: [{filter: [{function: majority_vote}, {function: take_first}]}]\n"
    assert "take_first" not in names(task(filters=steps))


def test_registered_metrics_bring_their_aggregation(task):
    assert names(task(metrics="[{metric: exact_match}, {metric: !function a.b, aggregation: mean}]")) == {}


def test_a_stderr_metric_answers_for_a_custom_aggregation(task):
    listed = "[{metric: m, aggregation: !function a.b}, {metric: m_stderr, aggregation: !function a.c}]"
    assert names(task(metrics=listed)) == {}


def test_log_likelihood_tasks_are_left_alone(task):
    text = "task: choice\noutput_type: multiple_choice\nrepeats: 4\n"
    assert diagnose([task(text)]) == []


def test_includes_are_merged(tmp_path, task):
    (tmp_path / "base.yaml").write_text(SOUND_TASK.replace("repeats: 8", "repeats: 1"), encoding="utf-8")
    path = tmp_path / "child.yaml"
    path.write_text("include: base.yaml\ntask: child\nrepeats: 4\nfilter_list: []\n", encoding="utf-8")
    found = names(str(path))
    assert list(found) == ["take_first"] and "repeats: 4" in found["take_first"].message
    (tmp_path / "loop.yaml").write_text("include: loop.yaml\ntask: x\n", encoding="utf-8")
    assert "until" in names(str(tmp_path / "loop.yaml"))


def test_builtin_math_with_repeats(task):
    found = names(task("include: aime24.yaml\ntask: aime24_k\nrepeats: 8\noutput_type: generate_until\n"))
    assert found["builtin_math"].level == "error"
    own = "include: aime24.yaml\ntask: k\nrepeats: 8\nprocess_results: !function opsd_eval.harness.process_results\n"
    assert "builtin_math" not in names(task(own))


def test_groups_with_inline_tasks(task):
    found = names(task("group: g\ntask:\n  - task: inline\n    repeats: 4\n    generation_kwargs: {until: []}\n  - other\n"))
    assert {"take_first", "greedy_repeats"} <= set(found)


# --- runs -------------------------------------------------------------------------------------------------

VLLM = "lm_eval --model vllm --log_samples --output_path o --apply_chat_template --tasks mine --model_args seed=3,"


@pytest.mark.parametrize(
    ("command", "pitfall", "level"),
    [
        (VLLM + "think_end_token=</think>", "think_end_token", "error"),
        (VLLM + "enable_thinking=True", "enable_thinking", "error"),
        (VLLM + "'chat_template_args={\"enable_thinking\": false}'", "enable_thinking_lost", "error"),
        (VLLM + "max_model_len=8192", "no_room", "error"),
        (VLLM + "max_model_len=8500", "no_room", "warning"),
        (VLLM + "data_parallel_size=2", "padded_draws", "warning"),
        (VLLM + "trust_remote_code=True", "remote_code", "warning"),
        (VLLM.replace("seed=3,", "pretrained=m"), "rerun_seed", "warning"),
        (VLLM + "api_key=sk-1", "key_on_command_line", "warning"),
        (VLLM + "a=1 --use_cache c", "use_cache_useless", "warning"),
        (VLLM + "a=1 --cache_requests true", "cache_requests", "warning"),
        (VLLM + "a=1 --cache_requests", "cache_requests", "warning"),
        (VLLM + "a=1 --limit 10", "limit", "warning"),
        (VLLM + "a=1 -L 10", "limit", "warning"),
        (VLLM + "a=1 --samples '{\"mine\": [2, 0]}'", "samples_order", "error"),
        (VLLM + "a=1 --gen_kwargs n=4", "n_in_kwargs", "error"),
        (VLLM.replace("--log_samples", ""), "log_samples", "error"),
        (VLLM.replace("--output_path o", ""), "output_path", "error"),
        (VLLM.replace("--apply_chat_template", ""), "chat_template", "warning"),
        (VLLM.replace("vllm", "local-chat-completions").replace("--apply_chat_template", ""), "chat_template", "error"),
        (VLLM.replace("mine", "aime24"), "builtin_aime", "warning"),
        (VLLM.replace("mine", "gsm8k,mine"), "builtin_math", "warning"),
        (VLLM.replace("mine", "minerva_math"), "minerva_import", "info"),
        ("accelerate launch -m lm_eval --model hf --tasks mine", "padded_draws", "warning"),
    ],
)  # fmt: skip
def test_run_pitfalls(task, command, pitfall, level):
    found = names(task(), command)
    assert pitfall in found and found[pitfall].level == level


def test_task_and_server_are_judged_together(task):
    path = task(kwargs="{until: [], do_sample: true, temperature: 0.7, max_gen_toks: 8192}")
    assert names(path)["api_seed"].level == "warning"  # it depends on the model
    api = VLLM.replace("--model vllm", "--model local-completions")
    assert names(path, api)["api_seed"].level == "error"
    assert "api_seed" not in names(path, api + " --gen_kwargs seed=None")
    assert "api_seed" not in names(path, VLLM)


def test_cache_with_temperature_only(task):
    path = task(kwargs="{until: [], temperature: 0.7, max_gen_toks: 8192, seed: null}")
    assert names(path, VLLM + "a=1 --use_cache c")["use_cache"].level == "error"


def test_predict_only_keeps_what_the_default_filter_drops(task):
    assert names(task(filters=""), VLLM + "a=1 --predict_only")["take_first"].level == "info"


def test_a_command_without_task_files():
    found = names(VLLM.replace("vllm", "local-completions") + "a=1 --gen_kwargs temperature=0.8,max_length=9,seed=4")
    assert {"do_sample", "max_length", "fixed_seed"} <= set(found)
    many = names(VLLM.replace("vllm", "local-completions") + "a=1 --gen_kwargs 'until=[\"a\",\"b\",\"c\",\"d\",\"e\"]'")
    assert "stop_list" in many
    greedy = names(VLLM.replace("mine", "aime24") + "a=1 --gen_kwargs temperature=0.6")
    assert greedy["do_sample_false"].level == "error" and "aime24 sets do_sample: false" in greedy["do_sample_false"].message


def test_run_yaml_and_include_path(tmp_path, task, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task(filters="")
    config = tmp_path / "run.yaml"
    config.write_text("model: hf\nmodel_args: {pretrained: m, think_end_token: '</think>'}\ninclude_path: .\n"
                      "tasks: [mine, {task: other, repeats: 3}]\nlog_samples: true\noutput_path: o\n", encoding="utf-8")  # fmt: skip
    found = names(str(config))
    assert {"think_end_token", "inline_task", "take_first", "chat_template"} <= set(found)
    script = tmp_path / "run.sh"
    script.write_text(f"#!/bin/sh\n# lm_eval --model vllm\nexport X=1\nlm_eval run \\\n  --config {config} \\\n"
                      "  --apply_chat_template | tee log\n", encoding="utf-8")  # fmt: skip
    from_script = names(str(script))
    assert "think_end_token" in from_script and "chat_template" not in from_script


# --- other programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "pitfall"),
    [
        ("--reasoning-parser qwen3", "reasoning_parser"), ("", "generation_config"), ("--seed 3", "server_seed"),
        ("--enable-lora", "max_loras"), ("--enable-lora --max-loras 2 --lora-modules a=x b=y", "max_loras"),
        ("--max-model-len 2048", "server_length"), ("--trust-remote-code", "remote_code"), ("--api-key k", "key_on_command_line"),
        ("--default-chat-template-kwargs '{\"enable_thinking\": false}'", "template_switch"),
    ],
)  # fmt: skip
def test_vllm_server(options, pitfall):
    assert pitfall in names(f"vllm serve model {options}")
    assert pitfall in names(f"python -m vllm.entrypoints.openai.api_server --model m {options}")


def test_a_sound_server():
    assert diagnose(["vllm serve m --generation-config vllm --enable-lora --max-loras 2 --lora-modules a=x"]) == []


def test_lighteval():
    found = names("lighteval vllm 'model_name=m,dtype=bfloat16' 'aime24|0' --max-samples 5")
    assert {"save_details", "lighteval_temperature", "lighteval_tokens", "limit", "reasoning_tags"} <= set(found)
    model = "model_name=m,seed=3,generation_parameters={temperature:0.7,top_p:0.95,max_new_tokens:8192}"
    assert set(names(f"lighteval vllm '{model}' 'aime24|0' --save-details")) == {"reasoning_tags"}
    assert "lighteval_seed" in names(f"lighteval vllm '{model.replace('seed=3,', '')}' 'aime24|0' --save-details")


@pytest.mark.parametrize(
    ("options", "pitfall"),
    [
        ("", "inspect_epochs"), ("--epochs 4 --seed 3", "inspect_seed"), ("--epochs 4 --temperature 0", "greedy_repeats"),
        ("--no-log-samples", "inspect_samples"), ("--num-choices 4", "inspect_choices"), ("--cache", "inspect_cache"),
        ("--limit 10", "limit"), ("-M device=cuda --epochs 4", "inspect_tokens"),
    ],
)  # fmt: skip
def test_inspect(options, pitfall):
    assert pitfall in names(f"inspect eval task.py --model hf/x {options}")


def test_a_sound_inspect_command():
    assert diagnose(["inspect eval t.py --model hf/x -T a=1 --epochs 8 --temperature 0.7 --max-tokens 32768"]) == []


@pytest.mark.parametrize(("options", "pitfall"), [
    ("--reasoning-parser qwen3", "reasoning_parser"), ("--context-length 2048", "server_length"),
    ("--trust-remote-code", "remote_code"), ("--api-key k", "key_on_command_line"),
])  # fmt: skip
def test_sglang_server(options, pitfall):
    assert list(names(f"python -m sglang.launch_server --model-path m {options}")) == [pitfall]


# --- reading ----------------------------------------------------------------------------------------------


def test_tags_are_inert(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("task: !function os.system\nx: !anything {a: 1}\ny: !z [1]\n", encoding="utf-8")
    settings, lines = read_yaml(path)
    assert settings == {"task": Function("os.system"), "x": Function("anything"), "y": Function("z")}
    assert lines[("x",)].endswith(":2")
    marker = tmp_path / "ran"
    path.write_text(f"task: !!python/object/apply:os.system ['touch {marker}']\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not readable as YAML"):
        read_yaml(path)
    assert not marker.exists()


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\t- x", "plain words", "a: &x [*x]\n- b"])
def test_bad_yaml_teaches(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        diagnose([str(path)])


def test_unreadable_sources(tmp_path):
    with pytest.raises(ValueError, match="neither a file nor a command line"):
        diagnose(["nonsense"])
    with pytest.raises(ValueError, match=r"absent\.yaml: no such file"):
        diagnose(["absent.yaml"])
    path = tmp_path / "note.txt"
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(ValueError, match="no command of lm_eval"):
        diagnose([str(path)])
    with pytest.raises(ValueError, match="cannot read the command"):
        diagnose(["lm_eval --tasks 'open"])
    path.write_bytes(b"lm_eval \xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        diagnose([str(path)])
    path.write_text("#" * 1_000_001, encoding="utf-8")
    with pytest.raises(ValueError, match="larger than"):
        diagnose([str(path)])


def test_bombs_in_aliases_are_harmless(tmp_path):
    """References are shared, not copied, and never printed whole."""
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    path = tmp_path / "t.yaml"
    path.write_text("\n".join([*lines, "task: t", "repeats: 4", "metric_list: *a39"]), encoding="utf-8")
    assert "take_first" in names(str(path))


def test_arguments_and_literals():
    assert arguments("a=1,b=[1,2],c={'x': 1},d=None,e=true,f=text=more,g='x,y'") == {
        "a": 1, "b": [1, 2], "c": {"x": 1}, "d": None, "e": True, "f": "text=more", "g": "x,y",
    }  # fmt: skip
    assert arguments('{"temperature": 0.5}') == {"temperature": 0.5} and arguments(None) == {} and arguments("[1]") == {}
    assert literal("__import__('os').system('x')") == "__import__('os').system('x')"
    assert literal("(" * 100_000) == "(" * 100_000
    options, rest = parse_options(["run", "-s", "--limit=5", "--model_args", "a=1", "b=2", "|", "tee"])
    assert options == {"log_samples": True, "limit": "5", "model_args": "a=1,b=2"} and rest == ["run"]


def test_command(task, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([task()])) == 0
    assert "no known pitfall" in capsys.readouterr().out
    assert run(parser.parse_args([task(filters=""), "--json"])) == 1
    [row] = json.loads(capsys.readouterr().out)["rows"]
    assert row["pitfall"] == "take_first" and set(row) == {"where", "pitfall", "level", "message", "why", "fix"}
    assert run(parser.parse_args([task(filters="")])) == 1
    printed = capsys.readouterr().out
    assert "why:" in printed and "do:" in printed and "task.yaml:6 repeats" in printed


def test_every_pitfall_is_tested_and_explained():
    source = Path(__file__).read_text(encoding="utf-8")
    untested = [name for name in ADVICE if f'"{name}"' not in source]
    assert untested == [], untested
