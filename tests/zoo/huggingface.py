"""Models of the transformers library, small and randomly initialised.

The library is slow to import and optional, so only a call of a builder imports it.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from torch import Tensor, nn

from .entry import Entry, Inputs, real, tokens

VOCABULARY = 67
LENGTH = 9
# Wider than the default, under which attention is all but uniform and hides what is inside it.
SPREAD = 0.2


def _build(model: str, config: str, **options: Any) -> nn.Module:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may ask the network for weights
    library: Any = importlib.import_module("transformers")
    options = {"initializer_range": SPREAD} | options
    built: nn.Module = getattr(library, model)(getattr(library, config)(**options))
    return built


class Only(nn.Module):
    """One output of a model that returns several: hidden states returned would be held in place."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, **inputs: Tensor) -> Tensor:
        output: Tensor = self.model(**inputs)[self.output]
        return output


def _image_classifier(family: str, **options: Any) -> nn.Module:
    options = {
        "image_size": 16,
        "patch_size": 4,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 88,
        "num_labels": 7,
    } | options
    return _build(f"{family}ForImageClassification", f"{family}Config", **options)


def swin() -> nn.Module:
    """Return Swin with shifted windows in both stages."""
    return _build(
        "SwinForImageClassification",
        "SwinConfig",
        image_size=32,
        patch_size=2,
        embed_dim=18,
        depths=[2, 2],
        num_heads=[3, 4],
        window_size=4,
        mlp_ratio=2.0,
        num_labels=7,
    )


def _text_classifier(family: str) -> nn.Module:
    return _build(
        f"{family}ForSequenceClassification",
        f"{family}Config",
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=88,
        max_position_embeddings=LENGTH + 4,
        num_labels=7,
    )


def gpt2() -> nn.Module:
    """Return GPT-2 with its head tied to the embedding."""
    return _build(
        "GPT2LMHeadModel",
        "GPT2Config",
        vocab_size=VOCABULARY,
        n_positions=LENGTH + 2,
        n_embd=48,
        n_layer=2,
        n_head=3,
        n_inner=88,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )


def gpt_neox() -> nn.Module:
    """Return GPT-NeoX: a quarter of each head rotates, q, k and v come from one matrix."""
    return _build(
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=88,
        rotary_pct=0.25,
        max_position_embeddings=LENGTH + 2,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )


def _llama_like(family: str, **options: Any) -> nn.Module:
    options = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "intermediate_size": 88,
        "max_position_embeddings": LENGTH + 2,
        "use_cache": False,
    } | options
    return _build(f"{family}ForCausalLM", f"{family}Config", **options)


def deep_llama() -> nn.Module:
    """Return Llama with 32 layers at a small width, for timing: (batch, time) to logits."""
    return _llama_like("Llama", num_hidden_layers=32)


def t5() -> nn.Module:
    """Return T5 with an inner width of attention, 40, that isn't the model's."""
    model = _build(
        "T5ForConditionalGeneration",
        "T5Config",
        vocab_size=VOCABULARY,
        d_model=48,
        d_kv=10,
        d_ff=88,
        num_layers=2,
        num_heads=4,
        use_cache=False,
    )
    return Only(model, "logits")


def whisper() -> nn.Module:
    """Return Whisper for 60 frames of 20 mel bands."""
    model = _build(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        init_std=SPREAD,
        vocab_size=VOCABULARY,
        num_mel_bins=20,
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=4,
        encoder_ffn_dim=88,
        decoder_ffn_dim=92,
        max_source_positions=30,
        max_target_positions=LENGTH + 2,
        use_cache=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return Only(model, "logits")


def clip() -> nn.Module:
    """Return CLIP, both towers and the scaled similarities."""
    layers = {"num_hidden_layers": 2, "initializer_range": SPREAD}
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 88,
        "max_position_embeddings": LENGTH + 2,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    vision = {
        "image_size": 16,
        "patch_size": 4,
        "hidden_size": 56,
        "num_attention_heads": 4,
        "intermediate_size": 92,
    }
    model = _build(
        "CLIPModel",
        "CLIPConfig",
        text_config=text | layers,
        vision_config=vision | layers,
        projection_dim=36,
    )
    return Only(model, "logits_per_image")


def _pixels() -> Inputs:
    return {"pixel_values": real(2, 3, 16, 16)}


def _text() -> Inputs:
    return {"input_ids": tokens(VOCABULARY, LENGTH)}


def _two_texts() -> Inputs:
    return {
        "input_ids": tokens(VOCABULARY, LENGTH),
        "decoder_input_ids": tokens(VOCABULARY, LENGTH - 4),
    }


def _speech() -> Inputs:
    return {
        "input_features": real(2, 20, 60),
        "decoder_input_ids": tokens(VOCABULARY, LENGTH),
    }


def _text_and_pixels() -> Inputs:
    text = tokens(VOCABULARY, LENGTH)
    text[:, -1] = 2
    return {"input_ids": text, "pixel_values": real(2, 3, 16, 16)}


def _entry(name: str, build: Any, inputs: Any, movable: float = 0.99) -> Entry:
    return Entry(name, build, inputs, movable, requires="transformers")


ENTRIES = (
    _entry("ViT", lambda: _image_classifier("ViT"), _pixels),
    _entry("DeiT", lambda: _image_classifier("DeiT"), _pixels),
    _entry("Swin", swin, lambda: {"pixel_values": real(2, 3, 32, 32)}),
    _entry("BERT", lambda: _text_classifier("Bert"), _text),
    _entry("RoBERTa", lambda: _text_classifier("Roberta"), _text),
    _entry("GPT-2", gpt2, _text),
    _entry("GPT-NeoX", gpt_neox, _text),
    _entry("Llama", lambda: _llama_like("Llama"), _text),
    _entry("Mistral", lambda: _llama_like("Mistral", sliding_window=4), _text),
    _entry(
        "Mixtral",
        lambda: _llama_like("Mixtral", num_local_experts=5, experts_implementation="batched_mm"),
        _text,
    ),
    _entry("T5", t5, _two_texts),
    _entry("Whisper", whisper, _speech),
    _entry("CLIP", clip, _text_and_pixels),
)

LARGE = (_entry("Llama (32 layers)", deep_llama, _text),)
