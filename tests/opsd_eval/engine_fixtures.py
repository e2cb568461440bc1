"""Tiny random models and tokenizers that the engine, prompt and sampling tests share (no training, no network)."""

from __future__ import annotations

CHATML = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"
    "{%- endif -%}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer(chat_template=CHATML):
    """A byte-level BPE tokenizer with a few merges, ChatML specials and non-special think tags, as Qwen3 has."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["the answer is 42\n\n", "user assistant\n", "think step by step"] * 4, trainer)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>",
        chat_template=chat_template, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def tiny_model(kind="qwen3", vocab_size=292, seed=0, **overrides):
    """A randomly initialised causal LM of some 100,000 parameters."""
    import torch
    import transformers

    config_class = {"qwen3": transformers.Qwen3Config, "llama": transformers.LlamaConfig}[kind]
    values = {
        "vocab_size": vocab_size, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
        "tie_word_embeddings": True, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config_class(**{**values, **overrides}))
        for parameter in model.parameters():  # sharper than the default .02, so that sampling has something to choose
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.float().eval()
