"""The accelerate configs of the repository, read by accelerate's own code, and what the trainer makes of them."""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from opsd_train.config import TrainConfig, apply_overrides
from opsd_train.launch import as_launched, make_accelerator
from opsd_train.trainer import train
from tests.opsd_train.conftest import log_rows

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"


def launched_with(name, **changes):
    """The environment that ``accelerate launch`` gives each process under a config of the repository."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    values = yaml.safe_load((CONFIGS / name).read_text())
    for group in ("fsdp_config", "deepspeed_config"):
        values.get(group, {}).update(changes)
    file = Path(tempfile.mkdtemp()) / name
    file.write_text(yaml.safe_dump(values))
    args = launch_command_parser().parse_args(["--config_file", str(file), "-m", "opsd_train.cli"])
    args, _, _ = _validate_launch_command(args)
    assert args.num_processes == 8
    args.deepspeed_fields_from_accelerate_config = ""  # launch_command sets it; read beside a DeepSpeed JSON file only
    return prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)


def plain():
    return apply_overrides(TrainConfig(), ["--model.path", "m", "--data.benchmark", "testbed.slips.train"])


def test_ddp_leaves_the_config_alone():
    environment = launched_with("ddp.yaml")
    assert as_launched(plain(), environment) == plain()
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"  # the recipe decides


def test_fsdp_means_sharding_and_accelerates_plugin_is_switched_off():
    environment = launched_with("fsdp.yaml")
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert as_launched(plain(), environment).run.sharding == "full"
    assert environment["ACCELERATE_USE_FSDP"] == "false"


@pytest.mark.parametrize(
    "changes", [{"fsdp_version": 1}, {"fsdp_offload_params": True}, {"fsdp_reshard_after_forward": False}]
)
def test_fsdp_settings_that_would_be_ignored_are_refused(changes):
    environment = launched_with("fsdp.yaml", **changes)
    with pytest.raises(ValueError, match=next(iter(changes))):
        as_launched(plain(), environment)


def test_ema_is_not_sharded_silently():
    config = apply_overrides(plain(), ["--method.teacher_mode", "ema"])
    with pytest.raises(ValueError, match=r"--run\.sharding full keeps no average"):
        as_launched(config, launched_with("fsdp.yaml"))


@pytest.mark.parametrize(("processes", "world", "message"), [(1, 2, "ACCELERATE_USE_CPU"), (4, 4, "a multiple of 4")])
def test_launches_that_would_not_do_what_they_say_are_refused(processes, world, message, tmp_path, monkeypatch):
    import accelerate

    monkeypatch.setattr(accelerate, "Accelerator", lambda **_: SimpleNamespace(num_processes=processes))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(ValueError, match=message):
        make_accelerator(apply_overrides(plain(), ["--optim.batch_size", "6"]), tmp_path)


FLOAT32 = ("--model.dtype", "float32")


def test_deepspeed_means_zero2_with_whole_weights():
    """Steps in two processes: ``test_processes.py``."""
    environment = launched_with("deepspeed_zero2.yaml")
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert as_launched(apply_overrides(plain(), FLOAT32), environment).run.sharding == "zero2"


@pytest.mark.parametrize(("changes", "options", "message"), [
    ({"zero_stage": 3}, FLOAT32, r"zero_stage is 3.*gathers the head"),
    ({"offload_optimizer_device": "cpu"}, FLOAT32, "moments stay on the device"),
    ({"gradient_clipping": 1.0}, FLOAT32, r"--optim\.max_grad_norm"),
    ({"gradient_accumulation_steps": 4}, FLOAT32, r"--optim\.micro_batch_size"),
    ({}, (), r"--model\.dtype bfloat16.*fsdp\.yaml"),
    ({}, (*FLOAT32, "--run.precision", "bf16"), r"--run\.precision bf16"),
])  # fmt: skip
def test_deepspeed_settings_that_cannot_work_are_refused(changes, options, message):
    environment = launched_with("deepspeed_zero2.yaml", **changes)
    with pytest.raises(ValueError, match=message):
        as_launched(apply_overrides(plain(), options), environment)


def test_zero2_without_deepspeed_is_refused(tmp_path, monkeypatch):
    config = apply_overrides(plain(), ["--run.sharding", "zero2", *FLOAT32])
    with pytest.raises(ValueError, match=r"deepspeed_zero2\.yaml"):
        as_launched(config, {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'opsd\[deepspeed\]'"):
        make_accelerator(config, tmp_path)


@pytest.mark.parametrize(("name", "message"), [("wandb", "pip install wandb"), ("wandbb", "wandb")])
def test_trackers_that_would_be_left_out_are_refused(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_accelerator(apply_overrides(plain(), ["--run.trackers", f"tensorboard,{name}"]), tmp_path)


STAND_IN = """
logged, finished, config = [], [], {}
class Run:
    def log(self, values, step=None, **_): logged.append((step, values))
    def finish(self): finished.append(True)
def init(project, **_):
    config["project"] = project
    return Run()
def finish(): finished.append(True)
"""


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_get_config_every_step_and_an_end(name, config, tmp_path, monkeypatch):
    """A stand-in with the package's interface: what reaches it, not what the package does with it."""
    import importlib

    from accelerate import tracking

    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(STAND_IN)
    entry = tmp_path / f"{name}-1.0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tracking, "_available_trackers", [tracking.LoggerType(name)])  # which accelerate looks up once, at its import
    monkeypatch.delitem(sys.modules, name, raising=False)
    options = ["--run.trackers", name, "--run.name", "mine", "--optim.steps", "2"]
    train(apply_overrides(config, options), tmp_path / "run")
    seen = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    assert seen.config["project"] == "mine" and seen.config["optim.steps"] == 2 and seen.finished
    rows = log_rows(tmp_path / "run")
    assert [step for step, _ in seen.logged] == [1, 2]
    assert [values["loss"] for _, values in seen.logged] == [row["loss"] for row in rows]
