"""Muon beside AdamW: the products and the moment that the planner counts for it."""

from dataclasses import replace

import pytest

from benthic.cost.catalog.load import load
from benthic.cost.network.shape import Shape, shape_of
from benthic.cost.step.calibrate import load_constants
from benthic.cost.step.layout import parse
from benthic.cost.step.memory import memory
from benthic.cost.step.muon import muon
from benthic.cost.step.speed import seconds
from benthic.cost.step.work import reach
from benthic.model.transformer import LanguageModel
from benthic.train.optimizer import is_matrix
from tests.cost.test_inspection import V3

CATALOG = load()
LLAMA = Shape(
    name="llama",
    **{"layers": 32, "hidden": 4096, "vocab": 128256, "ffn": 14336},
    **{"heads": 32, "kv_heads": 8, "head_dim": 128},
)


def test_muon_takes_the_products_of_its_own_step() -> None:
    """Counted here from the trainer's own parameters."""
    model, flops, elements = LanguageModel(V3), 0.0, 0
    for name, p in model.named_parameters():
        if is_matrix(name):
            short, long = sorted(p.shape[-2:])
            many = p.numel() // (short * long)
            flops += 5 * many * (4 * short * short * long + 2 * short**3)
            elements += p.numel()
    found = muon(shape_of(V3))
    assert (found.flops, found.elements) == (flops, elements)


@pytest.mark.parametrize(("words", "share"), [("dp8 tp1", 1.0), ("dp8 zero1", 1 / 8)])
def test_muon_beside_adamw(words: str, share: float) -> None:
    shape = LLAMA
    layout, gpu = parse(f"{words} recompute-full mb1 acc8"), CATALOG.gpu("h100")
    adamw, moved = (
        seconds(shape, one, gpu, 4096, load_constants())
        for one in (layout, replace(layout, optimizer="muon"))
    )
    rate = load_constants().matmul * gpu.bf16_flops * reach(gpu)[0]
    assert moved.pop("optimizer") - adamw.pop("optimizer") == pytest.approx(
        share * muon(shape).flops / rate
    )
    assert moved == adamw


def test_muon_keeps_one_moment_of_matrices() -> None:
    shape, layout = LLAMA, parse("dp8")
    adamw, one = (
        memory(shape, x, 4096).optimizer for x in (layout, replace(layout, optimizer="muon"))
    )
    assert adamw - one == pytest.approx(4 * muon(shape).elements)
    assert parse("dp8 muon").describe() == "dp8 muon"
