"""A plan's "plain PyTorch": what eager training on one device takes, against PyTorch itself."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from benthic.config import PretrainConfig
from benthic.cost.catalog.load import CostError, load
from benthic.cost.network.read_shape import from_config, shape
from benthic.cost.network.shape import shape_of
from benthic.cost.planner import plan_page
from benthic.cost.planner.basis import Question
from benthic.cost.planner.plain import plain, said
from benthic.cost.planner.plan import plan
from benthic.cost.step.eager import single_device
from benthic.cost.step.layout import parse
from benthic.model.config import ModelConfig
from benthic.model.transformer import LanguageModel, initialise
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks
from benthic.train.pretrain import Batch, _part
from benthic.train.step import train_step
from tests.cost.test_memory import passing

CATALOG = load()
SMALL = Question(shape=shape("qwen3-0.6b"), gpu="h100", gpus=1, tokens=1e9, layout=parse("mb2"))
WIDTHS: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "vocab_size": 300,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("seq", "vocab"), [(64, 300), (8, 4000)])
def test_parts_of_transformers_add_to_one_gradient(
    seq: int, vocab: int, parts: int, foreach: bool
) -> None:
    """Where activations are the peak, and where the optimizer is."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **WIDTHS | {"vocab_size": vocab})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=foreach)
    ids = torch.zeros(2, seq, dtype=torch.int64)

    def step() -> None:
        for _ in range(parts):
            model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    network = from_config(config.to_dict())
    peak = single_device(network, 2, seq, parts=parts, foreach=foreach)
    assert peak.total == pytest.approx(3 * weights + passing(step), rel=0.002)
    assert peak.moment == ("backward" if vocab == 300 else "optimizer")


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_ours_are_summed_one_by_one(parts: int) -> None:
    config = ModelConfig(model_type="qwen3", head_dim=16, **WIDTHS)
    model = LanguageModel(config)
    initialise(model, torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, weight_decay=0.0, muon=False)
    batch = Batch(
        tokens=torch.zeros(2, 97, dtype=torch.int64),
        documents=torch.zeros(2, 97, dtype=torch.int64),
        targets=torch.ones(2, 96, dtype=torch.bool),
        ahead=torch.ones(2, 95, dtype=torch.bool),
        is_text=torch.ones(2, dtype=torch.bool),
    )
    counts = torch.ones(2, dtype=torch.float64)

    def step() -> None:
        train_step(
            model,
            optimizer,
            lambda _: _part(model, batch, counts, 0.3, PretrainConfig(micro_batches=1)),
            parts,
            lr=1e-4,
            clip=1.0,
            bias_rate=0.0,
            ranks=Ranks(),
        )

    step()
    held = [*model.parameters(), *model.buffers(), *optimizer.state.values()]
    measured = sum(t.numel() * t.element_size() for t in held) + passing(step)
    peak = single_device(shape_of(config), 2, 96, implementation="benthic", parts=parts)
    assert peak.total == pytest.approx(measured, rel=0.01)


def test_a_plan_on_one_device_says_what_plain_pytorch_takes() -> None:
    one = plan(SMALL, CATALOG)
    found = plain(one)
    assert list(found) == ["transformers fp32", "transformers bf16", "Benthic fp32"]
    parts = one.layout.micro_batches
    alone = single_device(SMALL.shape, 2, 4096, parts=parts, foreach=True)
    assert found["transformers fp32"] == alone and parts > 1
    text = str(plan_page.story(one, CATALOG))
    assert f"transformers fp32 {alone.total / 1e9:.1f} GB" in text
    made = plan_page.to_dict(one, CATALOG)["plain_pytorch"]
    assert made["transformers fp32"]["total"] == alone.total


def test_what_does_not_fit_is_said() -> None:
    one = plan(replace(SMALL, gpu="rtx-4090", layout=parse("mb1")), CATALOG)
    ((name, text),) = said(one)
    assert name == "plain PyTorch"
    assert "fp32 31.2 GB (does not fit), transformers bf16 20.5 GB, Benthic" in text


BOTH = ["transformers fp32", "transformers bf16"]
WINDOWED = replace(SMALL.shape, window=1024, windowed_layers=4)
LATENT = replace(shape("deepseek-v2-lite"), layers=4, mtp=0)


@pytest.mark.parametrize(
    ("question", "names"),
    [
        (replace(SMALL, gpus=8, layout=parse("dp8 mb2")), []),
        (replace(SMALL, shape=WINDOWED), []),
        (replace(SMALL, gpu="tpu-v4", layout=parse("mb1")), []),
        (replace(SMALL, gpu="t4", layout=parse("mb1 fp16"), seq=256, batch=256), BOTH[:1]),
        (replace(SMALL, layout=parse("mb2 muon")), ["Benthic fp32"]),
        (replace(SMALL, seq=128), BOTH),
        (replace(SMALL, gpu="epyc-9654"), BOTH),
        (replace(SMALL, gpu="epyc-9654", batch=8192, seq=4096), [*BOTH, "Benthic fp32"]),
        (replace(SMALL, shape=LATENT), ["Benthic fp32"]),
    ],
)
def test_only_what_was_measured_has_a_figure(question: Question, names: list[str]) -> None:
    assert list(plain(plan(question, CATALOG))) == names


def test_no_part_is_no_step() -> None:
    with pytest.raises(CostError, match="parts is 0"):
        single_device(SMALL.shape, 1, 8, parts=0)
