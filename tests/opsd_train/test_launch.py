"""The accelerate configs of the repository, read by accelerate's own code, and what the trainer makes of them."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from opsd_train.config import TrainConfig, apply_overrides
from opsd_train.launch import as_launched, make_accelerator

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"


def launched_with(name, **changes):
    """The environment that ``accelerate launch`` gives each process under a config of the repository."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    values = yaml.safe_load((CONFIGS / name).read_text())
    values.get("fsdp_config", {}).update(changes)
    file = Path(tempfile.mkdtemp()) / name
    file.write_text(yaml.safe_dump(values))
    args = launch_command_parser().parse_args(["--config_file", str(file), "-m", "opsd_train.cli"])
    args, _, _ = _validate_launch_command(args)
    assert args.num_processes == 8
    return prepare_multi_gpu_env(args)


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


def test_deepspeed_is_refused_with_what_to_use(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"DEEPSPEED.*fsdp\.yaml"):
        make_accelerator(plain(), tmp_path)
