"""Small checkpoints in the Hub's layout: weights at random, a BPE of made-up words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benthic.config import Recipe
from benthic.data.hub_tokenizer import load_tokenizer, save_tokenizer
from benthic.model.config import ModelConfig
from benthic.model.export import Precision, export_hub
from benthic.model.transformer import LanguageModel
from benthic.weights import starting_from
from tests.small import SMALL, text_in, tokenizer_in

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKS = ("<|im_start|>", "<|im_end|>")
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}


def hub_in(
    folder: Path,
    *,
    template: str | None = None,
    precision: Precision = "fp32",
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A dense checkpoint; `changes` to its shape, weights wide enough that logits have spread."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_in(folder, text_in(folder.parent), layout=MARKS)
    hub = load_tokenizer(folder)
    save_tokenizer(replace(hub, chat_template=template), folder)
    kind = {"model_type": "llama", "vocab_size": hub.size, "bos_token_id": hub.bos or 0}
    config = ModelConfig(**{**SHAPE, **kind, "eos_token_id": hub.eos or 0, **changes})
    model = LanguageModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0.0, 0.3, generator=generator)
    export_hub(model, folder, precision=precision)
    return folder


def transformers_in(folder: Path, family: str, text: Path, **changes: Any) -> Path:
    """The same, written by transformers' save_pretrained; skips where it is not installed."""
    transformers = pytest.importorskip(
        "transformers", reason="the writer is transformers: install the extra 'dev'"
    )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    hub = load_tokenizer(tokenizer_in(folder, text))
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    make = getattr(transformers, f"{names[family]}Config")
    own: dict[str, Any] = {"head_dim": 8} if family == "qwen3" else {}
    config = make(
        **SHAPE,
        vocab_size=hub.size + 5,
        num_key_value_heads=1,
        bos_token_id=hub.bos,
        eos_token_id=hub.eos,
        **own,
        **changes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{names[family]}ForCausalLM")(config)
    model.save_pretrained(folder)
    return folder


def recipe_from(folder: Path, text: Path, *more: str) -> Recipe:
    """The small recipe on a folder's weights; rows and answers hold a vocabulary's longer tags."""
    own = [setting for setting in SMALL if not setting.startswith("model.")]
    longer = ("data.sequence_length=72", "reason.max_new_tokens=32", "evaluate.text_bytes=5000")
    paths = f"data.paths={json.dumps([str(text)])}"
    return starting_from("laptop", [*own, paths, *longer, *more], folder)
