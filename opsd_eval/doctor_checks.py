"""The doctor's checks of lm-eval tasks and runs: each takes a task (or run) and the whole setup, and gives pitfalls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from opsd_eval.doctor import Pitfall
from opsd_eval.doctor_advice import pitfall
from opsd_eval.doctor_read import Function, Run, Setup, Task, literal, task_names

_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_MATH = ("aime", "gsm8k", "minerva_math", "hendrycks_math", "putnam_axiom")
_NOT_MATH = ("gsm8k_cot_self_consistency",)
_RISKY_STOPS = ("\n\n", "\n", ".", "Question:", "Q:", "Problem:", "Answer:", "```", "</think>", "Wait")
_SHORT_TOKENS = 1024
#: Metrics of lm_eval 0.4.13 that bring an aggregation of their own.
_KNOWN_METRICS = frozenset((
    "acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte", "bleu", "brier_score", "bypass",
    "byte_perplexity", "chrf", "chrf++", "exact_match", "f1", "likelihood", "mcc", "perplexity", "ter",
    "word_perplexity",
))  # fmt: skip


def generates(task: Task) -> bool:
    """Whether the task generates text (the default output type does)."""
    return task.settings.get("output_type", "generate_until") == "generate_until"


def is_api(run: Run) -> bool:
    """Whether the run's model is behind an API."""
    name = str(run.options.get("model", ""))
    return "completions" in name or name.startswith(("openai", "anthropic", "local-"))


def kwargs_of(task: Task, setup: Setup) -> dict[str, Any]:
    """The task's generation kwargs with those of the command line over them."""
    own = task.settings.get("generation_kwargs")
    merged = dict(own) if isinstance(own, Mapping) else {}
    for run in setup.runs:
        merged.update(run.options["gen_kwargs"])
    return merged


def repeats_of(task: Task) -> int:
    """The number of draws a task asks for."""
    repeats = task.settings.get("repeats", 1)
    return repeats if isinstance(repeats, int) and repeats > 0 else 1


def samples(kwargs: Mapping[str, Any]) -> bool:
    """Whether these kwargs sample rather than decode greedily."""
    temperature = kwargs.get("temperature")
    if kwargs.get("do_sample") is False or temperature in (0, 0.0):
        return False
    return bool(kwargs.get("do_sample")) or temperature is not None


# --- tasks ------------------------------------------------------------------------------------------------


def filters(task: Task, setup: Setup) -> Iterator[Pitfall]:
    """Filters that drop draws before scoring."""
    repeats = repeats_of(task)
    if not generates(task) or repeats < 2:
        return
    pipelines = task.settings.get("filter_list")
    where = task.where("filter_list") if pipelines else task.where("repeats")
    if not isinstance(pipelines, list) or not pipelines:
        level = "info" if any(r.options.get("predict_only") for r in setup.runs) else "error"
        yield pitfall(where, "take_first", level, f"repeats: {repeats} without filter_list: the filter is take_first")
        return
    if len(pipelines) > 1:
        yield pitfall(where, "many_filters", "warning", f"{len(pipelines)} filters")
    for pipeline in pipelines:
        steps = pipeline.get("filter") if isinstance(pipeline, Mapping) else None
        for step in steps if isinstance(steps, list) else []:
            step = step if isinstance(step, Mapping) else {}
            yield from _filter_step(step, repeats, where)
            if step.get("function") == "majority_vote":  # from here on there is one string, take_first is right
                break


def _filter_step(step: Mapping[str, Any], repeats: int, where: str) -> Iterator[Pitfall]:
    function, k = step.get("function"), step.get("k")
    if function == "take_first":
        yield pitfall(where, "take_first", "error", f"take_first keeps one of {repeats} draws")
    elif function == "majority_vote":
        yield pitfall(where, "majority_vote", "warning", "majority_vote turns the draws into one string")
    elif function == "take_first_k" and isinstance(k, int) and k < repeats:
        yield pitfall(where, "filter_loses_draws", "warning", f"take_first_k k={k} of {repeats} draws")


def decoding(task: Task, setup: Setup) -> Iterator[Pitfall]:
    """Greedy repeats, temperature without do_sample."""
    if not generates(task):
        return
    kwargs, repeats = kwargs_of(task, setup), repeats_of(task)
    where = task.where("generation_kwargs", "do_sample")
    temperature = kwargs.get("temperature")
    if kwargs.get("do_sample") is False and temperature not in (None, 0, 0.0):
        level = "error" if repeats > 1 else "warning"
        yield pitfall(where, "do_sample_false", level, f"do_sample: false with temperature {temperature}")
    elif samples(kwargs) and not kwargs.get("do_sample"):
        yield pitfall(where, "do_sample", "warning", f"temperature {temperature} without do_sample: true")
    if not samples(kwargs):
        if repeats > 1:
            yield pitfall(where, "greedy_repeats", "error", f"{repeats} draws with greedy decoding")
        elif temperature is None and "do_sample" not in kwargs:
            yield pitfall(where, "greedy_default", "info", "neither temperature nor do_sample")


def stops(task: Task, setup: Setup) -> Iterator[Pitfall]:
    """The stop strings."""
    if not generates(task):
        return
    kwargs = kwargs_of(task, setup)
    where = task.where("generation_kwargs", "until")
    if "until" not in kwargs:
        delimiter = task.settings.get("fewshot_delimiter", "\n\n")
        yield pitfall(where, "until", "error", f"no until, so it is the few-shot delimiter {delimiter!r}")
        return
    until = kwargs["until"] if isinstance(kwargs["until"], list) else [kwargs["until"]]
    risky = [s for s in until if isinstance(s, str) and s in _RISKY_STOPS]
    if risky:
        yield pitfall(where, "until_cuts", "error" if "\n\n" in risky or "\n" in risky else "warning",
                      f"stop strings that occur in reasoning: {', '.join(map(repr, risky))}")  # fmt: skip
    if len(until) > 4 and (not setup.runs or any(map(is_api, setup.runs))):
        yield pitfall(where, "stop_list", "warning", f"{len(until)} stop strings")


def seeds(task: Task, setup: Setup) -> Iterator[Pitfall]:
    """Seeds that make draws identical."""
    kwargs, repeats = kwargs_of(task, setup), repeats_of(task)
    if not generates(task) or repeats < 2 or not samples(kwargs):
        return
    where = task.where("generation_kwargs", "seed")
    api = any(map(is_api, setup.runs))
    if kwargs.get("seed") is not None:
        yield pitfall(where, "fixed_seed", "error" if api or not setup.runs else "warning", f"seed: {kwargs['seed']}")
    elif "seed" not in kwargs and (api or not setup.runs):
        said = "no seed: null" if api else "no seed: null (matters for local-completions and other API models)"
        yield pitfall(where, "api_seed", "error" if api else "warning", f"{repeats} draws and {said}")


def lengths(task: Task, setup: Setup) -> Iterator[Pitfall]:
    """The token limit."""
    if not generates(task):
        return
    kwargs = kwargs_of(task, setup)
    given = next((kwargs[k] for k in _TOKENS if isinstance(kwargs.get(k), int)), None)
    model_level = any("max_gen_toks" in run.options["model_args"] for run in setup.runs)
    where = task.where("generation_kwargs", "max_gen_toks")
    if given is None and not model_level:
        yield pitfall(where, "max_tokens", "error", "no max_gen_toks: 256 tokens")
    elif given is not None and given < _SHORT_TOKENS:
        yield pitfall(where, "max_tokens_small", "warning", f"{given} tokens")
    if "max_length" in kwargs:
        yield pitfall(task.where("generation_kwargs", "max_length"), "max_length", "warning", "max_length as a limit")
    if kwargs.get("n") not in (None, 1):
        yield pitfall(task.where("generation_kwargs", "n"), "n_in_kwargs", "error", f"n: {kwargs['n']}")


def metrics(task: Task, setup: Setup) -> Iterator[Pitfall]:
    """Aggregations and data files."""
    listed = task.settings.get("metric_list")
    entries = [m for m in listed if isinstance(m, Mapping)] if isinstance(listed, list) else []
    for item in entries:
        name, where = item.get("metric"), task.where("metric_list")
        if "aggregation" not in item and isinstance(name, str) and name not in _KNOWN_METRICS:
            yield pitfall(where, "aggregation", "error", f"metric {_shown(name)} has no aggregation")
        elif isinstance(item.get("aggregation"), Function) and not str(name).endswith("_stderr"):
            declared = {str(other.get("metric")) for other in entries}
            if f"{name}_stderr" not in declared:
                yield pitfall(where, "custom_aggregation", "info", f"metric {_shown(name)}")
    arguments = task.settings.get("dataset_kwargs")
    files = arguments.get("data_files") if isinstance(arguments, Mapping) else None
    paths = files.values() if isinstance(files, Mapping) else files if isinstance(files, list) else [files]
    relative = [p for p in paths if isinstance(p, str) and not p.startswith(("/", "http", "hf:"))]
    if task.settings.get("dataset_path") in ("json", "csv", "parquet", "text") and relative:
        yield pitfall(task.where("dataset_kwargs", "data_files"), "relative_data", "warning", relative[0])


def _shown(name: Any) -> str:
    return name.name if isinstance(name, Function) else str(name)


def builtin_repeats(task: Task, setup: Setup) -> Iterator[Pitfall]:
    """A built-in mathematics task that was given repeats."""
    names = [task.settings.get("include"), task.settings.get("task")]
    theirs = [n for n in names if isinstance(n, str) and _is_math(n.removesuffix(".yaml"))]
    own = task.settings.get("process_results")
    replaced = isinstance(own, Function) and not own.name.startswith("utils.")
    if theirs and repeats_of(task) > 1 and not replaced:
        yield pitfall(task.where("repeats"), "builtin_math", "error", f"{theirs[0]} with {repeats_of(task)} draws")


def _is_math(name: str) -> bool:
    return name.startswith(_MATH) and name not in _NOT_MATH


# --- runs -------------------------------------------------------------------------------------------------


def thinking(run: Run, setup: Setup) -> Iterator[Pitfall]:
    """What happens to the reasoning trace."""
    arguments, model = run.options["model_args"], run.options.get("model")
    where = f"{run.source} --model_args"
    template = arguments.get("chat_template_args")
    template = literal(template) if isinstance(template, str) else template
    if arguments.get("think_end_token") is not None:
        shown = arguments["think_end_token"]
        yield pitfall(where, "think_end_token", "error", f"think_end_token={shown}")
    if arguments.get("enable_thinking") is True:
        yield pitfall(where, "enable_thinking", "error", "enable_thinking=True")
    if model == "vllm" and isinstance(template, Mapping) and "enable_thinking" in template:
        shown = template["enable_thinking"]
        yield pitfall(where, "enable_thinking_lost", "error", f"chat_template_args with enable_thinking: {shown}")


def caches(run: Run, setup: Setup) -> Iterator[Pitfall]:
    """Response and request caches."""
    if run.options.get("use_cache"):
        merged = [kwargs_of(task, setup) for task in setup.tasks if generates(task)] or [run.options["gen_kwargs"]]
        broken = any(samples(k) and not k.get("do_sample") for k in merged)
        unused = any(k.get("do_sample") for k in merged)
        where = f"{run.source} --use_cache"
        if broken or not unused:
            level = "error" if broken else "warning"
            yield pitfall(where, "use_cache", level, "responses are cached" + ("" if broken else "; safe if greedy"))
        else:
            yield pitfall(where, "use_cache_useless", "warning", "do_sample requests are not cached")
    if run.options.get("cache_requests") not in (None, False, "delete", "refresh", {}):
        yield pitfall(f"{run.source} --cache_requests", "cache_requests", "warning", "requests are cached")


def logging(run: Run, setup: Setup) -> Iterator[Pitfall]:
    """Whether samples are kept."""
    options = run.options
    kept = options.get("log_samples") or options.get("predict_only")
    if not kept:
        yield pitfall(f"{run.source} --log_samples", "log_samples", "error", "samples are not logged")
    elif not options.get("output_path"):
        yield pitfall(f"{run.source} --output_path", "output_path", "error", "--log_samples without --output_path")


def gen_kwargs(run: Run, setup: Setup) -> Iterator[Pitfall]:
    """Generation kwargs on the command line, where no task file was given to judge them with."""
    kwargs = run.options["gen_kwargs"]
    if setup.tasks:
        return
    where = f"{run.source} --gen_kwargs"
    if kwargs.get("n") not in (None, 1):
        yield pitfall(where, "n_in_kwargs", "error", f"n={kwargs['n']}")
    if samples(kwargs) and not kwargs.get("do_sample"):
        yield pitfall(where, "do_sample", "warning", f"temperature={kwargs.get('temperature')} without do_sample=True")
    if kwargs.get("do_sample") is False and kwargs.get("temperature") not in (None, 0, 0.0):
        yield pitfall(where, "do_sample_false", "error", f"do_sample=False, temperature={kwargs['temperature']}")
    if is_api(run) and samples(kwargs) and "seed" not in kwargs:
        yield pitfall(where, "api_seed", "warning", "no seed=None (matters for tasks with repeats)")
    if kwargs.get("seed") is not None:
        yield pitfall(where, "fixed_seed", "warning", f"seed={kwargs['seed']}")
    if "max_length" in kwargs:
        yield pitfall(where, "max_length", "warning", f"max_length={kwargs['max_length']}")
    until = kwargs.get("until")
    if isinstance(until, list) and len(until) > 4 and is_api(run):
        yield pitfall(where, "stop_list", "warning", f"{len(until)} stop strings")


def engine(run: Run, setup: Setup) -> Iterator[Pitfall]:
    """Engine seed, lengths, data parallelism, code from the hub."""
    arguments, where = run.options["model_args"], f"{run.source} --model_args"
    sampled = any(samples(kwargs_of(t, setup)) for t in setup.tasks) or samples(run.options["gen_kwargs"])
    if run.options.get("model") == "vllm" and "seed" not in arguments and sampled:
        yield pitfall(where, "rerun_seed", "warning", "no seed= for the vllm engine")
    elif run.options.get("model") in ("hf", "hf-auto") and sampled and not run.options.get("seed"):
        yield pitfall(f"{run.source} --seed", "rerun_seed", "info", "torch is seeded with 1234 by default")
    room = next((arguments[k] for k in ("max_length", "max_model_len") if isinstance(arguments.get(k), int)), None)
    wanted = [k for t in setup.tasks for k in [kwargs_of(t, setup).get("max_gen_toks")] if isinstance(k, int)]
    wanted += [v for v in (run.options["gen_kwargs"].get("max_gen_toks"),) if isinstance(v, int)]
    if room is not None and wanted and room - max(wanted) < 512:
        level = "error" if room <= max(wanted) else "warning"
        yield pitfall(where, "no_room", level, f"length {room} with max_gen_toks {max(wanted)}")
    parallel = arguments.get("data_parallel_size", 1)
    if (isinstance(parallel, int) and parallel > 1) or "accelerate launch" in run.prefix or "torchrun" in run.prefix:
        yield pitfall(run.source, "padded_draws", "warning", "several data-parallel ranks")
    if run.options.get("trust_remote_code") or arguments.get("trust_remote_code") is True:
        yield pitfall(f"{run.source} trust_remote_code", "remote_code", "warning", "trust_remote_code")
    if "api_key" in arguments:
        yield pitfall(where, "key_on_command_line", "warning", "api_key in the command")


def chosen_problems(run: Run, setup: Setup) -> Iterator[Pitfall]:
    """Limits, selected samples, inline tasks, chat template."""
    options = run.options
    if options.get("limit"):
        yield pitfall(f"{run.source} --limit", "limit", "warning", f"limit {options['limit']}")
    chosen = options.get("samples")
    chosen = _json(chosen) if isinstance(chosen, str) else chosen
    for name, indices in chosen.items() if isinstance(chosen, Mapping) else ():
        numbers = [i for i in indices if isinstance(i, int)] if isinstance(indices, list) else []
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            yield pitfall(f"{run.source} --samples", "samples_order", "error", f"{name}: {indices[:6]}")
    if any(isinstance(t, Mapping) for t in (options.get("tasks") or []) if not isinstance(options.get("tasks"), str)):
        yield pitfall(f"{run.source} tasks", "inline_task", "error", "a task given as a dict")
    model = str(options.get("model", "hf"))
    if not options.get("apply_chat_template") and model != "dummy":
        level = "error" if "chat" in model else "warning"
        yield pitfall(f"{run.source} --apply_chat_template", "chat_template", level, "no chat template")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def builtin_tasks(run: Run, setup: Setup) -> Iterator[Pitfall]:
    """Built-in mathematics tasks by name."""
    names = task_names(run.options)
    theirs = [n for n in names if _is_math(n) and not n.endswith((".yaml", ".yml"))]
    own = {t.settings.get("task") for t in setup.tasks}
    theirs = [n for n in theirs if n not in own]
    where = f"{run.source} --tasks"
    if theirs:
        level = "info" if run.options.get("predict_only") else "warning"
        yield pitfall(where, "builtin_math", level, f"{', '.join(theirs)}: one draw")
    kwargs = run.options["gen_kwargs"]
    if theirs and samples(kwargs) and not kwargs.get("do_sample"):
        seen = f"{theirs[0]} sets do_sample: false, and temperature={kwargs.get('temperature')} does not change that"
        yield pitfall(f"{run.source} --gen_kwargs", "do_sample_false", "error", seen)
    if any(n.startswith("aime") for n in theirs):
        yield pitfall(where, "builtin_aime", "warning", "aime as built in")
    if any(n.startswith("minerva_math") for n in theirs):
        yield pitfall(where, "minerva_import", "info", "minerva_math")


TASK_CHECKS: tuple[Callable[[Task, Setup], Iterator[Pitfall]], ...] = (
    filters, decoding, stops, seeds, lengths, metrics, builtin_repeats,
)  # fmt: skip
RUN_CHECKS: tuple[Callable[[Run, Setup], Iterator[Pitfall]], ...] = (
    thinking, caches, logging, gen_kwargs, engine, chosen_problems, builtin_tasks,
)  # fmt: skip
