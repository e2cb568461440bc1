"""Scoring in padded batches equals scoring each row alone; the head on top equals the model's own logits."""

from __future__ import annotations

import random

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from opsd_train import scoring
from opsd_train.divergence import Divergence
from opsd_train.head import head_of
from opsd_train.loss import Method, chunked_loss
from opsd_train.scoring import adapter_disabled, backbone_of, completion_hidden, frozen_hidden, verify_model

VOCAB = 50


def tiny(kind, **options):
    values = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **options,
    }  # fmt: skip
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=128,
                                         bos_token_id=1, eos_token_id=2)  # fmt: skip
    else:
        config = {"qwen3": transformers.Qwen3Config, "llama": transformers.LlamaConfig, "gemma2": transformers.Gemma2Config,
                  "mistral": transformers.MistralConfig}[kind](**values)  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def ragged(seed=0):
    rng = random.Random(seed)
    sizes = [(3, 5), (9, 1), (1, 12), (6, 0), (12, 7), (2, 2)]
    return [[[rng.randrange(VOCAB) for _ in range(n)] for n in column] for column in zip(*sizes, strict=True)]


def one_by_one(model, prompts, completions):
    """The textbook way: the whole row through the whole model, logits sliced afterwards."""
    found = []
    for prompt, completion in zip(prompts, completions, strict=True):
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
        found.append(logits[len(prompt) - 1 : len(prompt) + len(completion) - 1])
    return torch.cat(found)


MODELS = {
    "qwen3": {}, "qwen3_tied": {"tie_word_embeddings": True}, "llama": {}, "mistral": {"sliding_window": 4}, "gpt2": {},
    "llama_eager": {"attn_implementation": "eager"},
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return tiny(request.param.split("_")[0], **MODELS[request.param])


def test_rows_of_one_pass_are_of_similar_length():
    """Teacher, reference and base rows of the published shapes: 3 % padding, not 17 %; everything once."""
    lengths = [1223] * 4 + [2223] * 4 + [2023] * 4
    groups = list(scoring._groups(lengths, 16_384))
    assert sorted(i for group in groups for i in group) == list(range(12))
    assert sum(len(group) * lengths[group[0]] for group in groups) < 1.03 * sum(lengths)
    assert len(list(scoring._groups(lengths, scoring.UNLIMITED))) == 1, "sharded processes must make the same passes"
    assert len(list(scoring._groups([40] * 2 + [90] * 4, 16_384))) == 1, "a pass of few tokens is not worth splitting"


@pytest.mark.parametrize("max_tokens", [1, 40, 10_000])
def test_batches_equal_one_row_at_a_time(model, max_tokens):
    prompts, completions = ragged()
    with torch.no_grad():
        hidden = completion_hidden(model, prompts, completions, max_tokens=max_tokens)
        expected = one_by_one(model, prompts, completions)
    assert hidden.shape == (sum(map(len, completions)), 32)
    assert torch.allclose(hidden @ head_of(model).weight.T, expected, atol=2e-5)


def test_only_the_positions_that_predict_are_asked_for(model):
    """The row leaves the last completion token out, and no output head runs."""
    prompts, completions = ragged()
    seen = []
    hooks = [
        backbone_of(model).register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"].shape), with_kwargs=True),
        model.get_output_embeddings().register_forward_hook(lambda *a: pytest.fail("the output head ran")),
    ]
    with torch.no_grad():
        completion_hidden(model, prompts, completions)
    for hook in hooks:
        hook.remove()
    assert seen == [(5, 18)]


def test_what_stands_in_padding_changes_nothing():
    model = tiny("qwen3")
    prompts, completions = ragged()
    with torch.no_grad():
        alone = completion_hidden(model, prompts[:1], completions[:1])
        beside = completion_hidden(model, prompts, completions)[: len(completions[0])]
    assert torch.allclose(alone, beside, atol=1e-5)


def test_gradients_equal_one_row_at_a_time():
    model = tiny("llama")
    prompts, completions = ragged()
    gradients = []
    for run in (lambda: completion_hidden(model, prompts, completions) @ head_of(model).weight.T,
                lambda: one_by_one(model, prompts, completions)):  # fmt: skip
        model.zero_grad()
        run().pow(2).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-3 * gradient.abs().max()), name


def test_no_completion_token_is_no_row():
    model = tiny("qwen3")
    assert completion_hidden(model, [], []).shape == (0, 32)
    assert completion_hidden(model, [[1, 2]], [[]]).shape == (0, 32)
    assert frozen_hidden(model, {"teacher": [[1]], "base": [[2]]}, [[]])["base"].shape == (0, 32)
    with pytest.raises(ValueError, match="empty prompt"):
        completion_hidden(model, [[]], [[3]])
    with pytest.raises(ValueError, match="one prompt a completion"):
        completion_hidden(model, [[1]], [])


def test_frozen_roles_in_one_batch_without_gradient_and_with_the_adapter_off():
    base = tiny("qwen3")
    prompts, completions = ragged()
    by_role = {"teacher": [[7, *p] for p in prompts], "reference": [[8, 8, *p] for p in prompts], "base": prompts}
    expected = {role: completion_hidden(base, rows, completions).detach() for role, rows in by_role.items()}
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    found = frozen_hidden(model, by_role, completions)
    assert model.training
    for role, states in found.items():
        assert not states.requires_grad
        assert torch.allclose(states, expected[role], atol=1e-5), role
    model.eval()
    assert not torch.allclose(completion_hidden(model, prompts, completions), expected["base"], atol=1e-2)
    with adapter_disabled(model):
        assert torch.allclose(completion_hidden(model, prompts, completions), expected["base"], atol=1e-5)


def test_models_whose_logits_are_not_a_plain_product_are_refused():
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        head_of(tiny("gemma2", final_logit_softcapping=30.0))
    wrapped = get_peft_model(tiny("qwen3"), LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    with pytest.raises(ValueError, match="LoRA"):
        head_of(wrapped)
    with pytest.raises(ValueError, match="decoder"):
        backbone_of(torch.nn.Linear(2, 2))


def test_verification_by_a_forward_pass(model, monkeypatch):
    verify_model(model)
    forward = type(model).forward

    def rescaled(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 1.1
        return out

    monkeypatch.setattr(type(model), "forward", rescaled)
    with pytest.raises(ValueError, match="changes its logits after the head"):
        verify_model(model)


@pytest.mark.parametrize("target", ["standard", "purified"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_whole_step_with_identical_contexts_has_loss_zero_and_gradient_zero(kind, target):
    model = tiny(kind)
    prompts, completions = ragged()
    hidden = {"student": completion_hidden(model, prompts, completions)}
    hidden |= frozen_hidden(model, dict.fromkeys(("teacher", "reference", "base"), prompts), completions)
    out = chunked_loss(hidden, head_of(model), method=Method(target))
    out.loss.backward()
    assert abs(out.loss.item()) < 1e-8
    assert out.stats["kl_from_base"].abs().max() < 1e-5
    assert max(p.grad.abs().max().item() for p in model.parameters() if p.grad is not None) < 1e-4


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("target", ["standard", "purified"])
def test_a_whole_step_has_the_textbook_gradient(target, tied):
    """Chunked loss on packed states against whole logits and autograd, every parameter, embeddings tied or not."""
    from opsd_train.targets import TARGETS, TargetParams

    model = tiny("qwen3", tie_word_embeddings=tied).double()
    prompts, completions = ragged()
    by_role = {"teacher": [[7, *p] for p in prompts], "reference": [[8, *p] for p in prompts], "base": prompts}
    by_role["base"] = [[9, *p] for p in prompts]  # stands for other weights, so that the loss is not 0 at the start
    hidden = {"student": completion_hidden(model, prompts, completions), **frozen_hidden(model, by_role, completions)}
    method = Method(target, divergence=Divergence("forward_kl"))
    out = chunked_loss(hidden, head_of(model), method=method, chunk=5)
    out.loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with torch.no_grad():
        logp = {role: one_by_one(model, rows, completions).log_softmax(-1) for role, rows in by_role.items()}
    wanted = TARGETS[target].combine({role: logp[role] for role in TARGETS[target].needs}, TargetParams())
    student_logp = one_by_one(model, prompts, completions).log_softmax(-1)
    total = (wanted.exp() * (wanted - student_logp)).sum(-1).mean()
    total.backward()
    assert torch.allclose(out.loss, total)
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-10), name
