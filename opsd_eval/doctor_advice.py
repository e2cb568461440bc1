"""Why each pitfall matters and what to write instead: one table, so that no check goes without."""

from __future__ import annotations

from opsd_eval.doctor import Pitfall

#: pitfall: (why, fix).
ADVICE = {
    "take_first": (
        "the default filter hands one of the K draws to scoring and drops the others without a word; pass@k and "
        "diversity of one draw are pass@1 and nothing",
        "one filter that keeps lists: filter_list: [{name: all, filter: [{function: take_first_k, k: K}]}], with a "
        "process_results that takes the list; or --predict_only and `opsd-eval ingest`, since the log holds all K",
    ),
    "many_filters": (
        "each filter scores again and writes all K texts into the log again",
        "one filter; compute the rest from the samples",
    ),
    "majority_vote": (
        "it votes on strings as they are, so \"[invalid]\" can win and ties go to the first",
        "keep all draws and measure maj@k, which votes on answers and shares ties",
    ),
    "filter_loses_draws": ("only the first k draws reach scoring", "k equal to repeats"),
    "padded_draws": (
        "data-parallel ranks are padded by repeating the last request, which gives that problem up to 2K responses",
        "a filter that cuts to K (take_first_k); `opsd-eval ingest` cuts to repeats",
    ),
    "greedy_repeats": (
        "K greedy draws are K copies: pass@k equals pass@1 and diversity is 0, which looks like collapse",
        "do_sample: true and a temperature, or repeats: 1",
    ),
    "greedy_default": (
        "without temperature and do_sample the harness decodes greedily",
        "say do_sample: true and temperature if you want samples",
    ),
    "do_sample": (
        "backends differ in what a temperature without do_sample means, and the response cache is only passed by when "
        "do_sample is truthy: with --use_cache a re-run gives back the last response K times",
        "do_sample: true beside the temperature",
    ),
    "do_sample_false": (
        "do_sample: false sets the temperature to 0, whatever temperature is asked for",
        "do_sample: true beside the temperature",
    ),
    "until": (
        "without until the stop string is the few-shot delimiter, a blank line: every chain of thought ends at its "
        "first paragraph",
        "until: [] (end-of-sequence is added by itself)",
    ),
    "until_cuts": (
        "a stop string that occurs in reasoning cuts the completion there, and the rest looks like a missing answer",
        "until: []",
    ),
    "stop_list": (
        "chat APIs are sent the first four stop strings only (stop[:4]); the others do nothing",
        "at most four, or none",
    ),
    "api_seed": (
        "the API backends send seed 1234 with every request, so a server that honours it (vLLM does) gives K identical "
        "draws: pass@k = pass@1 and diversity 0, exactly what mode collapse looks like",
        "seed: null in generation_kwargs, or --gen_kwargs seed=None",
    ),
    "fixed_seed": (
        "one seed for all draws of a request gives identical draws on servers that honour it",
        "seed: null",
    ),
    "rerun_seed": (
        "the engine's seed is fixed (1234) too: running again to add draws gives the same draws again",
        "another seed in model_args for each further run (seed=1, seed=2, …), then check with `opsd-eval audit`",
    ),
    "n_in_kwargs": (
        "n > 1 is lost: one code path keeps the first choice only, the concurrent one fails with a zip() error",
        "repeats: K instead of n",
    ),
    "max_tokens": (
        "without max_gen_toks a completion ends after 256 tokens, in the middle of its reasoning",
        "max_gen_toks of a few thousand, and check the truncated share",
    ),
    "max_tokens_small": (
        "completions of reasoning models are longer; truncated ones count as wrong, and the terser model wins",
        "raise it until under 1 % end at the limit",
    ),
    "max_length": (
        "max_length counts prompt and completion together in transformers, so long prompts get short answers",
        "max_gen_toks",
    ),
    "no_room": (
        "the prompt gets what max_length leaves after max_gen_toks; hf refuses when nothing is left, others cut the "
        "prompt from the left, question included",
        "max_length (max_model_len) of at least max_gen_toks plus the longest prompt",
    ),
    "think_end_token": (
        "everything before the last end-of-thinking token is deleted before logging: markers, steps, loops and lengths "
        "of the reasoning can never be measured",
        "leave it out and strip inside the scorer; grading here takes the last box of the whole text anyway",
    ),
    "enable_thinking": (
        "the harness raises when enable_thinking is true and think_end_token is missing, and with it the reasoning is "
        "deleted from the log",
        "leave enable_thinking unset where the template thinks by default; on hf put it into chat_template_args",
    ),
    "enable_thinking_lost": (
        "the vllm backend takes enable_thinking out of chat_template_args and then overwrites it with the bare "
        "argument, so the value given here is lost",
        "enable_thinking=False as an argument of its own; for true rely on the template's default",
    ),
    "use_cache": (
        "the response cache cannot tell two draws of one prompt apart: sampling with a temperature but without "
        "do_sample stores one response and gives it back K times",
        "no --use_cache for sampled runs",
    ),
    "use_cache_useless": (
        "requests with do_sample are never cached, so a crashed run starts from nothing",
        "several runs of fewer draws with different seeds, or `opsd-eval sample`, which resumes",
    ),
    "cache_requests": (
        "its key holds neither repeats nor generation kwargs: after changing them the old requests are used unchanged",
        "leave it out, or --cache_requests refresh after every change",
    ),
    "log_samples": (
        "only aggregated numbers are kept; none of the questions this toolkit asks can be answered later",
        "--log_samples --output_path DIR",
    ),
    "output_path": ("the harness stops with an error: samples need somewhere to go", "--output_path DIR"),
    "samples_order": (
        "--samples attaches ids by position, so indices that are not sorted and unique name the wrong document",
        "sorted, unique indices",
    ),
    "chat_template": (
        "an instruction-tuned model sees bare text without its chat template, and local-chat-completions refuses it",
        "--apply_chat_template (not for base models)",
    ),
    "remote_code": (
        "code from the model's repository runs on your machine with your rights",
        "leave it out, or read that code first",
    ),
    "limit": (
        "the first N problems are no random sample, and runs with another limit cannot be compared",
        "all problems, or the same limit everywhere and said so",
    ),
    "builtin_math": (
        "the built-in mathematics tasks score one string: with several draws they score wrongly without a word or "
        "crash, and there is no flag for repeats",
        "a task of your own with a process_results that takes a list (python -m opsd_eval.harness_tasks writes them), "
        "or --predict_only and `opsd-eval ingest`",
    ),
    "builtin_aime": (
        "its defaults are greedy decoding, a bare \"Question: … Answer:\" prompt and the stop string \"Question:\"; "
        "papers use a boxed prompt, temperature 0.6–1.0 and the mean of 8 or more draws",
        "a task of your own, or say so beside the number",
    ),
    "minerva_import": (
        "minerva_math refuses to import unless antlr4-python3-runtime is 4.11",
        "math-verify[antlr4_11_0] in that environment",
    ),
    "inline_task": (
        "an inline task dict is not merged with the registered YAML and fails with a TypeError",
        "a YAML file with include:, named in tasks",
    ),
    "aggregation": ("a metric without an aggregation fails with KeyError: None", "aggregation: mean"),
    "custom_aggregation": (
        "the standard error of a custom aggregation is printed as N/A",
        "aggregation: mean of a per-problem value where possible, or a second metric named <name>_stderr after it",
    ),
    "relative_data": (
        "data_files is looked up from the current folder, not from the YAML's",
        "an absolute path, or custom_dataset: !function package.module.load",
    ),
    "reasoning_parser": (
        "the server moves the reasoning into reasoning_content; harnesses read content only, so it never reaches the "
        "log",
        "serve without --reasoning-parser, and strip inside the scorer",
    ),
    "generation_config": (
        "the server takes its sampling defaults (top_k, top_p, temperature, repetition penalty) from the model's "
        "generation_config.json, so two checkpoints may be sampled differently by one request",
        "--generation-config vllm, and send every setting with the request",
    ),
    "server_seed": (
        "a fixed engine seed makes a second run repeat the first",
        "another --seed for each run, or a seed per request",
    ),
    "max_loras": (
        "with as many adapters as slots, a request for the base model that is batched with adapter requests was seen "
        "to get an adapter (vLLM on CPU)",
        "--max-loras of at least the number of adapters + 1, or never mix base and adapter requests",
    ),
    "server_length": (
        "prompt and completion share this length; long reasoning is truncated",
        "at least the longest prompt plus max_new_tokens",
    ),
    "template_switch": (
        "the switch applies to every request and is recorded in no log",
        "note it beside the numbers, or send it with each request",
    ),
    "key_on_command_line": (
        "other users see it in the list of processes, and shells keep it in their history",
        "an environment variable (VLLM_API_KEY, OPENAI_API_KEY)",
    ),
    "save_details": (
        "without details only aggregated numbers are kept",
        "--save-details",
    ),
    "lighteval_temperature": (
        "lighteval's default temperature is 0: a task with several samples refuses it, others give greedy numbers",
        "generation_parameters={temperature:…,top_p:…} in the model arguments",
    ),
    "lighteval_tokens": (
        "without max_new_tokens the length is the task's own generation_size, often too short for reasoning",
        "generation_parameters={max_new_tokens:…}",
    ),
    "lighteval_seed": (
        "the engine's seed is 1234 by default: running again gives the same draws",
        "seed=… in the model arguments for each further run",
    ),
    "reasoning_tags": (
        "what is scored is the text without its <think> part (the details keep both)",
        "nothing for ingest, which reads the whole text; know it when comparing scores",
    ),
    "inspect_samples": (
        "the log keeps scores and no completions, so nothing about the reasoning can be measured later",
        "leave it out",
    ),
    "inspect_epochs": (
        "one draw gives avg@1 and nothing about pass@k, agreement or diversity",
        "--epochs K with a temperature",
    ),
    "inspect_seed": (
        "the same seed goes out with every epoch, so a server that honours it gives K identical draws, exactly what "
        "mode collapse looks like",
        "leave --seed out",
    ),
    "inspect_choices": (
        "only the first choice is scored, and `opsd-eval ingest` reads that one",
        "--epochs K in its place",
    ),
    "inspect_tokens": (
        "the provider's default ends completions early (hf: 2,048 tokens), in the middle of long reasoning",
        "--max-tokens of what the model needs, and check the truncated share",
    ),
    "inspect_cache": (
        "epochs are cached one by one, but running again to add draws gives the same draws back",
        "no --cache for runs that should add draws",
    ),
}


def pitfall(where: str, name: str, level: str, message: str) -> Pitfall:
    """A pitfall with its why and fix."""
    why, fix = ADVICE[name]
    return Pitfall(where, name, level, message, why, fix)
