import dataclasses

import pytest

from opsd_train.config import (
    FREE_FIELDS,
    TrainConfig,
    apply_overrides,
    differences,
    field_docs,
    flatten,
    validate,
)


def changed(*words):
    return apply_overrides(TrainConfig(), words)


def test_overrides_take_the_type_of_the_field():
    config = changed(
        "--optim.lr", "1e-4", "--optim.steps=1e3", "--data.student_thinking", "off", "--data.teacher_thinking", "none",
        "--model.gradient_checkpointing", "false", "--run.trackers", "tensorboard, wandb", "--model.revision", "main",
        "--run.seed", "9007199254740993",
    )  # fmt: skip
    assert (config.optim.lr, config.optim.steps) == (1e-4, 1000) and isinstance(config.optim.steps, int)
    assert config.data.student_thinking is False and config.data.teacher_thinking is None
    assert config.model.gradient_checkpointing is False and config.model.revision == "main"
    assert config.run.trackers == ("tensorboard", "wandb")
    assert config.run.seed == 2**53 + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.l", "1"], "optim.lr"),
        (["--optim.steps", "1.5"], "whole number"),
        (["--optim.steps", "many"], "whole number"),
        (["--optim.lr", "nan"], "finite"),
        (["--model.gradient_checkpointing", "2"], "true or false"),
        (["--optim.lr"], "needs a value"),
        (["optim.lr", "1"], "expected --group.field value"),
        (["--model.path", "x", "--run.seed", "none"], "whole number"),
    ],
)
def test_bad_overrides_say_what_is_wrong(words, message):
    with pytest.raises(ValueError, match=message):
        changed(*words)


def test_dict_round_trip_and_unknown_keys():
    config = changed("--run.trackers", "a,b", "--data.split", "train")
    assert TrainConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"unknown option 'optim.lrr'.*optim.lr"):
        TrainConfig.from_dict({"optim": {"lrr": 1}})


def test_hash_changes_with_every_field_that_can_change_a_number_and_no_other():
    config = TrainConfig()
    for name, value in flatten(config).items():
        if isinstance(value, bool):
            other = str(not value)
        elif isinstance(value, int | float):
            other = str(value + 1)
        else:
            other = "true" if "thinking" in name else "changed"
        moved = changed(f"--{name}", other)
        assert (moved.hash == config.hash) == (name in FREE_FIELDS), name
        assert bool(differences(config, moved)) == (name not in FREE_FIELDS), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method.target", "purifed"], "purified"),
        (["--method.context", "referense"], "reference"),
        (["--method.divergence", "kl"], "forward_kl"),
        (["--method.weighting", "unifrom"], "uniform"),
        (["--method.clip", "entry"], "per_entry"),
        (["--method.weight_on_target", "1"], r"allowed is \(0, 1\)"),
        (["--method.beta", "0"], "method.beta is 0"),
        (["--optim.batch_size", "5", "--optim.draws", "2"], "not a multiple"),
        (["--rollout.engine", "server"], "server_url"),
    ],
)
def test_validation_names_the_field_and_what_is_allowed(words, message):
    with pytest.raises(ValueError, match=message):
        validate(changed("--model.path", "m", "--data.benchmark", "b", *words))


def test_a_config_without_model_or_data_is_refused():
    with pytest.raises(ValueError, match="start from a recipe"):
        validate(TrainConfig())


def test_every_field_is_documented_and_frozen():
    assert set(field_docs()) == set(flatten(TrainConfig()))
    assert all(doc for _, _, doc in field_docs().values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().optim.lr = 1.0
