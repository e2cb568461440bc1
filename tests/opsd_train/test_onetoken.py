"""One decision point: the roles' own distributions, and the target the trainer would use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from opsd_train.data import load_data
from opsd_train.objective import loss_method
from opsd_train.onetoken import as_text, next_token_logp, token_rows
from opsd_train.policy import load_policy, load_tokenizer
from opsd_train.targets import get_target


@pytest.fixture
def point(config):
    tokenizer = load_tokenizer(config.model)
    data = load_data(config, tokenizer)
    policy = load_policy(config.model, config.method, tokenizer, seed=0)
    prompts = data.prompts[data.problems[0].problem_id]
    beginning = tokenizer.encode("maybe 57", add_special_tokens=False)
    return policy, prompts, beginning, loss_method(config.method)


def test_each_role_is_the_model_after_its_own_prompt(point):
    policy, prompts, beginning, method = point
    found = next_token_logp(policy, prompts, beginning, method=method)
    assert set(found) == {"student", "teacher", "reference", "base", "target"}
    for role, ids in prompts.items():
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*ids, *beginning]])).logits[0, -1, : policy.vocab_size]
        torch.testing.assert_close(found[role], torch.log_softmax(logits, -1), atol=1e-5, rtol=0)
    roles = {role: found[role][None] for role in get_target("purified").needs}
    assert torch.equal(found["target"], get_target("purified").combine(roles, method.params)[0])


def test_rows_hold_what_every_role_finds_likely(point):
    policy, prompts, beginning, method = point
    logp = next_token_logp(policy, prompts, beginning, method=method)
    rows = token_rows(logp, policy.tokenizer, top=3)
    shown = {row["id"] for row in rows}
    assert all(set(values.topk(3).indices.tolist()) <= shown for values in logp.values())
    for row in rows:
        assert row["delta_total"] == pytest.approx(row["delta_ref"] + row["delta_it"], abs=1e-4)
    assert [row["p_target"] for row in rows] == sorted((row["p_target"] for row in rows), reverse=True)
    assert len(as_text(rows).splitlines()) == 1 + len(rows)
    with pytest.raises(ValueError, match="1 or more"):
        token_rows(logp, policy.tokenizer, top=0)


def test_a_role_without_a_prompt_is_named(point):
    policy, prompts, beginning, method = point
    with pytest.raises(ValueError, match="wrong_hint"):
        next_token_logp(policy, prompts, beginning, method=replace(method, target="rlcsd"))
