"""The doctor's checks of ``vllm serve``, ``sglang``, ``lighteval`` and ``inspect eval`` commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from opsd_eval.doctor import Pitfall
from opsd_eval.doctor_advice import pitfall
from opsd_eval.doctor_read import Command, arguments, literal

_SHORT_LENGTH = 4096


def vllm_server(command: Command) -> Iterator[Pitfall]:
    """A vLLM server that others will sample from."""
    options, source = command.options, command.source
    if "reasoning_parser" in options:
        yield pitfall(f"{source} --reasoning-parser", "reasoning_parser", "error", str(options["reasoning_parser"]))
    if options.get("generation_config") != "vllm":
        yield pitfall(f"{source} --generation-config", "generation_config", "warning", "not set to vllm")
    if "seed" in options:
        yield pitfall(f"{source} --seed", "server_seed", "info", f"seed {options['seed']}")
    if options.get("enable_lora"):
        slots = literal(str(options.get("max_loras", 1)))
        adapters = len(str(options.get("lora_modules", "")).split(",")) if options.get("lora_modules") else 1
        if not isinstance(slots, int) or slots < adapters + 1:
            yield pitfall(f"{source} --max-loras", "max_loras", "warning", f"{slots} slots for {adapters} adapters")
    length = literal(str(options.get("max_model_len", "")))
    if isinstance(length, int) and length < _SHORT_LENGTH:
        yield pitfall(f"{source} --max-model-len", "server_length", "warning", f"{length} tokens")
    if "enable_thinking" in str(options.get("default_chat_template_kwargs", "")):
        shown = str(options["default_chat_template_kwargs"])
        yield pitfall(f"{source} --default-chat-template-kwargs", "template_switch", "info", shown)
    if options.get("trust_remote_code"):
        yield pitfall(f"{source} --trust-remote-code", "remote_code", "warning", "trust_remote_code")
    if "api_key" in options:
        yield pitfall(f"{source} --api-key", "key_on_command_line", "warning", "an API key in the command")


def lighteval(command: Command) -> Iterator[Pitfall]:
    """A lighteval command."""
    options, source = command.options, command.source
    backend = command.words[0] if command.words else ""
    model = arguments(command.words[1]) if len(command.words) > 1 else {}
    parameters = model.get("generation_parameters")
    settings = _loose(parameters) if isinstance(parameters, str) else parameters
    settings = settings if isinstance(settings, Mapping) else {}
    where = f"{source} model arguments"
    if not options.get("save_details"):
        yield pitfall(f"{source} --save-details", "save_details", "error", "samples are not saved")
    if "temperature" not in settings:
        yield pitfall(where, "lighteval_temperature", "warning", "no temperature in generation_parameters")
    if "max_new_tokens" not in settings:
        yield pitfall(where, "lighteval_tokens", "warning", "no max_new_tokens in generation_parameters")
    if backend in ("vllm", "sglang") and "seed" not in model and settings.get("temperature") not in (None, 0, 0.0):
        yield pitfall(where, "lighteval_seed", "warning", "no seed")
    if not options.get("no_remove_reasoning_tags"):
        yield pitfall(f"{source} --remove-reasoning-tags", "reasoning_tags", "info", "on by default")
    if options.get("max_samples"):
        yield pitfall(f"{source} --max-samples", "limit", "warning", f"{options['max_samples']} problems")
    if model.get("trust_remote_code") is True:
        yield pitfall(where, "remote_code", "warning", "trust_remote_code")


def sglang_server(command: Command) -> Iterator[Pitfall]:
    """An SGLang server that others will sample from."""
    options, source = command.options, command.source
    if "reasoning_parser" in options:
        yield pitfall(f"{source} --reasoning-parser", "reasoning_parser", "error", str(options["reasoning_parser"]))
    length = literal(str(options.get("context_length", "")))
    if isinstance(length, int) and length < _SHORT_LENGTH:
        yield pitfall(f"{source} --context-length", "server_length", "warning", f"{length} tokens")
    if options.get("trust_remote_code"):
        yield pitfall(f"{source} --trust-remote-code", "remote_code", "warning", "trust_remote_code")
    if "api_key" in options:
        yield pitfall(f"{source} --api-key", "key_on_command_line", "warning", "an API key in the command")


def inspect(command: Command) -> Iterator[Pitfall]:
    """An ``inspect eval`` command; a task's own code may set epochs and temperature, which is not read here."""
    options, source = command.options, command.source
    epochs = literal(str(options.get("epochs", "")))
    if options.get("no_log_samples"):
        yield pitfall(f"{source} --no-log-samples", "inspect_samples", "error", "samples are not logged")
    if not isinstance(epochs, int) or epochs < 2:
        yield pitfall(f"{source} --epochs", "inspect_epochs", "info", "one draw a problem, unless the task sets epochs")
    elif "seed" in options:
        yield pitfall(f"{source} --seed", "inspect_seed", "error", f"{epochs} epochs with seed {options['seed']}")
    if str(options.get("temperature")) in ("0", "0.0") and isinstance(epochs, int) and epochs > 1:
        yield pitfall(f"{source} --temperature", "greedy_repeats", "error", f"{epochs} epochs with greedy decoding")
    if "num_choices" in options:
        yield pitfall(f"{source} --num-choices", "inspect_choices", "error", f"{options['num_choices']} choices")
    if "max_tokens" not in options and str(options.get("model", "")).startswith(("hf/", "vllm/", "sglang/")):
        yield pitfall(f"{source} --max-tokens", "inspect_tokens", "warning", "no --max-tokens")
    if "cache" in options:
        yield pitfall(f"{source} --cache", "inspect_cache", "warning", "generations are cached")
    if options.get("limit"):
        yield pitfall(f"{source} --limit", "limit", "warning", f"limit {options['limit']}")


def _loose(text: str) -> dict[str, object]:
    """``{temperature:0.7,top_p:5}``, lighteval's notation without quotes."""
    return arguments(text.strip().strip("{}").replace(":", "="))


PROGRAM_CHECKS: dict[str, Callable[[Command], Iterator[Pitfall]]] = {
    "vllm": vllm_server, "sglang": sglang_server, "lighteval": lighteval, "inspect": inspect,
}  # fmt: skip
