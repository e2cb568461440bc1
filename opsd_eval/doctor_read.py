"""Read configurations for the doctor: YAML without running anything, and command lines without a shell."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE_LIMIT = 1_000_000
_PROGRAMS = re.compile(
    r"(?:^|[\s;&|])(?:\S*/)?(?P<lm_eval>lm[-_]eval\b|lm_eval\b)|(?P<vllm>vllm\s+serve|vllm\.entrypoints\.openai)"
    r"|(?:^|[\s;&|])(?:\S*/)?(?P<lighteval>lighteval\b)|(?P<sglang>sglang\.launch_server|sglang\s+serve)"
    r"|(?:^|[\s;&|])(?:\S*/)?(?P<inspect>inspect\s+eval(?:-set|-retry)?(?=\s))"
)
KNOWN = "lm_eval, lighteval, inspect eval, vllm serve or sglang"
_SHORT = {"-M": "model", "-a": "model_args", "-t": "tasks", "-L": "limit", "-c": "use_cache", "-o": "output_path",
          "-s": "log_samples", "-E": "samples", "-x": "predict_only", "-b": "batch_size", "-f": "num_fewshot",
          "-C": "config"}  # fmt: skip
_RUN_KEYS = {"model", "model_args", "gen_kwargs"}
_TASK_KEYS = {"generation_kwargs", "output_type", "doc_to_text", "process_results", "repeats", "filter_list", "include",
              "metric_list", "dataset_path"}  # fmt: skip


@dataclass(frozen=True)
class Function:
    """What ``!function name`` (or any other tag) becomes: its text."""

    name: str


@dataclass(frozen=True)
class Task:
    """One lm-eval task: its settings (with ``include`` merged in) and the file and lines they stand in."""

    source: str
    settings: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    def where(self, *keys: str) -> str:
        """``file:line key`` of a setting, or of the nearest one above it that is there."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.lines:
                return f"{self.lines[keys[:end]]} {'.'.join(keys)}"
        return f"{self.source} {'.'.join(keys)}"


@dataclass(frozen=True)
class Run:
    """One lm-eval run, from its command line or run YAML: options by their long names."""

    source: str
    options: Mapping[str, Any]
    prefix: str = ""


@dataclass(frozen=True)
class Command:
    """A command of another program (``vllm``, ``lighteval``, …): options, and the words that are none."""

    source: str
    program: str
    options: Mapping[str, Any]
    words: tuple[str, ...]


@dataclass
class Setup:
    """Everything the doctor was given."""

    tasks: list[Task] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)


def read_sources(sources: Sequence[str | Path]) -> Setup:
    """Read files and quoted command lines into one setup."""
    setup = Setup()
    for source in sources:
        path = Path(source)
        if len(str(source)) < 4096 and path.is_file():
            _read_file(path, setup)
        elif _PROGRAMS.search(str(source)) and " " in str(source).strip():
            _read_commands(str(source), "command", setup)
        elif " " not in str(source).strip() and ("/" in str(source) or path.suffix):
            raise ValueError(f"{source}: no such file")
        else:
            raise ValueError(f"{source}: neither a file nor a command line of {KNOWN}")
    return setup


def _read_file(path: Path, setup: Setup) -> None:
    if path.suffix in (".yaml", ".yml"):
        settings, lines = read_yaml(path)
        if _RUN_KEYS & set(settings):
            _add_run(Run(str(path), settings), setup)
        elif _TASK_KEYS & set(settings) or "task" in settings:
            _add_task(path, settings, lines, setup)
        else:
            raise ValueError(f"{path}: neither an lm-eval task (task, output_type, …) nor a run (model, tasks, …)")
        return
    text = _text(path)
    if not _PROGRAMS.search(text):
        raise ValueError(f"{path}: no command of {KNOWN} in it; YAML files must end in .yaml")
    _read_commands(text, str(path), setup)


def _text(path: Path) -> str:
    if path.stat().st_size > FILE_LIMIT:
        raise ValueError(f"{path}: larger than {FILE_LIMIT} bytes; is this a configuration?")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from None


# --- YAML -------------------------------------------------------------------------------------------------


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """(settings, ``file:line`` of each key down to the second level); tags become names, nothing is constructed."""
    import yaml

    class Inert(yaml.SafeLoader):
        """Safe loader for which ``!function a.b`` is the text ``a.b``."""

    def inert(loader: Any, suffix: str, node: Any) -> Function:
        return Function(node.value if isinstance(node, yaml.ScalarNode) else suffix)

    Inert.add_multi_constructor("!", inert)
    text = _text(path)
    try:
        value = yaml.load(text, Loader=Inert)  # Inert is a SafeLoader
        root = yaml.compose(text, Loader=Inert)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a mapping of settings, got {type(value).__name__}")
    lines: dict[tuple[str, ...], str] = {}
    for key, node in getattr(root, "value", []):
        lines[(str(key.value),)] = f"{path}:{key.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            for inner, _ in node.value:
                lines[(str(key.value), str(inner.value))] = f"{path}:{inner.start_mark.line + 1}"
    return {str(k): v for k, v in value.items()}, lines


def _add_task(path: Path, settings: dict[str, Any], lines: dict[tuple[str, ...], str], setup: Setup) -> None:
    settings, lines = _with_includes(path, settings, lines, depth=0)
    if isinstance(settings.get("task"), list):  # a group: its inline tasks
        for inner in settings["task"]:
            if isinstance(inner, dict):
                setup.tasks.append(Task(str(path), {str(k): v for k, v in inner.items()}, lines))
        return
    setup.tasks.append(Task(str(path), settings, lines))


def _with_includes(
    path: Path, settings: dict[str, Any], lines: dict[tuple[str, ...], str], *, depth: int
) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """The settings over those of the file named by ``include`` (at most five deep), as lm-eval merges them."""
    name = settings.get("include")
    base = path.parent / name if isinstance(name, str) else None
    if base is None or depth >= 5 or not base.is_file():
        return settings, lines
    below, below_lines = _with_includes(base, *read_yaml(base), depth=depth + 1)
    return {**below, **settings}, {**below_lines, **lines}


# --- command lines ----------------------------------------------------------------------------------------


def _read_commands(text: str, source: str, setup: Setup) -> None:
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        match = _PROGRAMS.search(line)
        if not match or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line[match.start(match.lastgroup or 0) :], comments=True)
        except ValueError as error:
            raise ValueError(f"{source}: cannot read the command ({error}): {line.strip()[:200]}") from None
        options, rest = parse_options(words[1:], short=_SHORT if match.lastgroup == "lm_eval" else {})
        if match.lastgroup == "lm_eval":
            _add_run(Run(source, options, line[: match.start("lm_eval")]), setup)
        else:
            setup.commands.append(Command(source, str(match.lastgroup), options, tuple(rest)))


def parse_options(words: Sequence[str], *, short: Mapping[str, str] = _SHORT) -> tuple[dict[str, Any], list[str]]:
    """(options by name with underscores, other words); an option without a value is ``True``."""
    options: dict[str, Any] = {}
    rest: list[str] = []
    name = None
    for word in words:
        if word in ("|", "&&", ";", "||", ">", "2>&1", "&"):
            break
        if word.startswith("--") or word in short or re.fullmatch(r"-[A-Za-z]", word):
            name, _, value = word.lstrip("-").partition("=")
            name = short.get(word, name.replace("-", "_"))
            options[name] = value or True
        elif name is None:
            rest.append(word)
        else:
            options[name] = word if options[name] is True else f"{options[name]},{word}"
    return options, rest


def _add_run(run: Run, setup: Setup) -> None:
    options = dict(run.options)
    config = Path(str(options.get("config", "")))
    if config.is_file():
        options = {**read_yaml(config)[0], **options}
    for key in ("model_args", "gen_kwargs"):
        options[key] = arguments(options.get(key))
    setup.runs.append(Run(run.source, options, run.prefix))
    names = task_names(options)
    for name in names:
        if name.endswith((".yaml", ".yml")) and Path(name).is_file():
            _add_task(Path(name), *read_yaml(Path(name)), setup)
    folder = Path(str(options.get("include_path") or ""))
    if options.get("include_path") and folder.is_dir():
        for path in _yaml_files(folder):
            if re.search(r"^task:\s*(\S+)", _text(path), re.MULTILINE) and _task_name(path) in names:
                _add_task(path, *read_yaml(path), setup)


def _yaml_files(folder: Path) -> list[Path]:
    """The first 1,000 YAML files below a folder, outside hidden folders and installed packages."""
    found: list[Path] = []
    for at, inside, files in os.walk(folder):
        inside[:] = sorted(d for d in inside if not d.startswith(".") and d not in ("site-packages", "node_modules"))
        found += [Path(at) / name for name in sorted(files) if name.endswith((".yaml", ".yml"))]
        if len(found) >= 1000:
            break
    return [path for path in found[:1000] if path.stat().st_size <= FILE_LIMIT]


def _task_name(path: Path) -> Any:
    return read_yaml(path)[0].get("task")


def task_names(options: Mapping[str, Any]) -> list[str]:
    """Names in ``tasks``, whether given as text or as a list (inline task dicts are left out)."""
    tasks = options.get("tasks") or []
    parts = tasks.split(",") if isinstance(tasks, str) else [t for t in tasks if isinstance(t, str)]
    return [part.strip() for part in parts if part.strip()]


def arguments(value: Any) -> dict[str, Any]:
    """``key=value,key=[a,b]`` (or a mapping, or JSON) as a dict with Python values."""
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items()}
    if not isinstance(value, str):
        return {}
    if value.lstrip().startswith("{"):
        found = literal(value)
        return {str(k): v for k, v in found.items()} if isinstance(found, dict) else {}
    pairs = (part.partition("=") for part in _split(value))
    return {key.strip(): literal(text.strip()) for key, mark, text in pairs if mark}


def _split(text: str) -> list[str]:
    """Split at commas that are in no bracket and no quotes."""
    parts, depth, quote, current = [], 0, "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth <= 0:
            parts.append(current)
            current = ""
            continue
        current += letter
    return [*parts, current]


def literal(text: str) -> Any:
    """A value as JSON or as a Python literal, else the text itself; nothing is evaluated."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return {"true": True, "false": False, "none": None, "null": None}.get(text.lower(), text)
