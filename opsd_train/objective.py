"""From rollouts to one number: score them, combine the roles, compare, and sum over the tokens of the whole step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opsd_train.config import MethodConfig
from opsd_train.divergence import Divergence
from opsd_train.head import Head, head_of
from opsd_train.loss import LossOutput, Method, Outcome, chunked_loss, sampled_logp, student_entropy
from opsd_train.outcome import advantages, verdicts
from opsd_train.policy import Policy
from opsd_train.rollouts import Rollout
from opsd_train.scoring import completion_hidden
from opsd_train.targets import OUTCOME, TargetParams, get_target
from opsd_train.weighting import WEIGHTINGS, token_stats


@dataclass(frozen=True)
class Batch:
    """Rollouts scored in one pass, and each role's hidden states (N, D) at their completion tokens."""

    rollouts: Sequence[Rollout]
    frozen_hidden: Mapping[str, Tensor]

    @property
    def completions(self) -> list[Sequence[int]]:
        """Completion token ids, in order."""
        return [r.completion_ids for r in self.rollouts]

    def prompts(self, role: str) -> list[Sequence[int]]:
        """One role's prompts, in the same order."""
        return [r.prompts[role] for r in self.rollouts]


def frozen_batch(policy: Policy, rollouts: Sequence[Rollout], roles: Sequence[str]) -> Batch:
    """Score rollouts with the frozen weights of the given roles."""
    completions = [r.completion_ids for r in rollouts]
    prompts = {role: [r.prompts[role] for r in rollouts] for role in roles}
    return Batch(rollouts, policy.frozen_hidden(prompts, completions))


def loss_method(config: MethodConfig) -> Method:
    """The method group of a config as the loss takes it."""
    clip_at = None if config.clip == "none" else config.clip_value
    divergence = Divergence(
        config.divergence, weight_on_target=config.weight_on_target, clip=config.clip, clip_at=clip_at
    )
    return Method(config.target, TargetParams(clip_c=config.clip_c, beta=config.beta), divergence)


def student_loss(
    policy: Policy, batch: Batch, *, method: Method, weighting: str, n_tokens: float
) -> Callable[[nn.Module], tuple[Tensor, dict[str, Tensor]]]:
    """A function of the model for :class:`Inside`: (loss, per-token statistics) of one batch.

    loss = Σ w·ℓ over the batch's tokens ÷ ``n_tokens``, the number of valid tokens of the whole step. A batch
    without tokens has loss 0 and zero gradients for every trained parameter, so that processes stay in step.
    """

    def compute(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        prompts = batch.prompts("student")
        if not any(len(c) for c in batch.completions):  # same passes and same gradients as everyone, worth nothing
            states = completion_hidden(model, prompts[:1], [prompts[0][:1]], max_tokens=policy.max_tokens)
            with policy.initial_head():
                return states.sum() * 0.0 + head_of(model).weight.sum() * 0.0, {}
        hidden = completion_hidden(model, prompts, batch.completions, max_tokens=policy.max_tokens)
        with policy.initial_head(), torch.autocast(hidden.device.type, enabled=False):  # logits are never rounded
            heads = policy.heads(list(batch.frozen_hidden))
            lengths = [len(c) for c in batch.completions]
            weights = token_weights(weighting, lengths, hidden, heads["student"])
            wanted = OUTCOME in get_target(method.target).needs
            outcome = batch_outcome(batch, hidden, heads) if wanted else None
            output: LossOutput = chunked_loss(
                {**batch.frozen_hidden, "student": hidden}, heads, method=method, n_tokens=n_tokens, weights=weights,
                outcome=outcome,
            )  # fmt: skip
        return output.loss, output.stats

    return compute


def token_weights(name: str, lengths: list[int], hidden: Tensor, head: Head) -> Tensor:
    """Weights (N,) of the named weighting, over packed completions of the given lengths."""
    stats = token_stats(lengths, student_entropy=lambda: student_entropy(hidden.detach(), head), device=hidden.device)
    return WEIGHTINGS[name](stats)


def batch_outcome(batch: Batch, hidden: Tensor, heads: Mapping[str, Head]) -> Outcome:
    """Sampled ids and advantages (N,) of the batch's packed completions; ``hidden``: the student's states."""
    ids = torch.tensor([i for c in batch.completions for i in c], device=hidden.device)
    teacher = sampled_logp(batch.frozen_hidden["teacher"], heads["teacher"], ids)
    ratio = (teacher - sampled_logp(hidden.detach(), heads["student"], ids)).exp()
    lengths = [len(c) for c in batch.completions]
    verdict = verdicts(ratio, lengths, [r.finish_reason == "stop" for r in batch.rollouts])
    return Outcome(ids, advantages(verdict, lengths))
