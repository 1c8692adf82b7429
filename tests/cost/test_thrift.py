"""The waterfall of ideas: steps that multiply, ideas that are the network's, checks that run."""

import json
import math
import shlex
from dataclasses import replace
from functools import cache, wraps
from itertools import pairwise
from typing import Any

import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic import cli
from benthic.config import load as load_recipe
from benthic.cost.catalog.load import CostError, load
from benthic.cost.network.flops import decode_parts, parameters
from benthic.cost.network.read_shape import shape
from benthic.cost.network.shape import Shape
from benthic.cost.planner import thrift_page
from benthic.cost.planner.asking import in_fp8
from benthic.cost.planner.serving import REACHED, SERVICE, SPEED, _Replica, cheapest
from benthic.cost.planner.thrift import (
    EXPERTS,
    FP8,
    GROUPS,
    LATENTS,
    MTP,
    PLAIN,
    Stage,
    show,
    stages_of,
    to_dict,
    waterfall,
)
from benthic.cost.step.calibrate import load_constants

CATALOG = load()
V3 = shape("deepseek-v3")


def mixtral() -> Shape:
    return Shape(
        name="mixtral",
        layers=32,
        hidden=4096,
        vocab=32000,
        heads=32,
        kv_heads=8,
        head_dim=128,
        ffn=14336,
        experts=8,
        experts_per_token=2,
        expert_ffn=14336,
    )


@cache
def stages(name: str, gpu: str, gpus: int, **more: Any) -> tuple[Stage, ...]:
    network = mixtral() if name == "mixtral" else shape(name)
    fp8 = name != "mixtral" and in_fp8(name)
    found = waterfall(network, CATALOG.gpu(gpu), CATALOG, tokens=1e12, fp8=fp8, gpus=gpus, **more)
    return tuple(found)


def page(name: str, gpu: str, gpus: int) -> Any:
    found = stages(name, gpu, gpus)
    story = thrift_page.Story(found[-1].shape, found, "quality", 1e9, 4989, SPEED)
    return thrift_page.page(story, CATALOG)


@pytest.mark.parametrize(
    ("name", "gpu", "gpus", "ideas"),
    [
        ("llama-3.1-8b", "h100", 8, [GROUPS]),
        ("qwen2.5-1.5b", "b200", 8, [GROUPS]),
        ("mixtral", "h100", 64, [GROUPS, EXPERTS]),
        ("deepseek-v2-lite", "h100", 8, [LATENTS, EXPERTS]),
        ("moonlight-16b-a3b", "a100", 16, [LATENTS, EXPERTS]),
    ],
)
def test_steps_are_the_networks_own_ideas(name: str, gpu: str, gpus: int, ideas: list[str]) -> None:
    found = stages(name, gpu, gpus)
    assert [stage.idea for stage in found[1:]] == ideas
    assert found[0].idea.startswith(PLAIN)
    for stage in found:
        assert stage.hours > 0 and stage.dollars == stage.hours * found[-1].plan.price
        assert stage.served.gpus and stage.served.batch >= 1 and stage.price > 0
    assert found[-1].plan.gpu_hours.p50 == pytest.approx(found[-1].hours, rel=0.01)


def test_v3s_stages_are_all_four_and_fp8_needs_the_gpu() -> None:
    with_fp8 = [idea for idea, _, _ in stages_of(V3, "quality", fp8=True)]
    assert with_fp8[1:] == [LATENTS, EXPERTS, FP8, MTP]
    without = stages_of(V3, "quality", fp8=False, plain="fp16")
    assert [idea for idea, _, _ in without[1:]] == [LATENTS, EXPERTS, MTP]
    assert {precision for _, _, precision in without} == {"fp16"}
    assert without[0][0].endswith("fp16")


def test_a_plain_network_has_one_stage_and_says_so() -> None:
    plain = replace(mixtral(), kv_heads=32, experts=0, experts_per_token=0, expert_ffn=0)
    plain = replace(plain, dense_layers=32)
    found = waterfall(plain, CATALOG.gpu("h100"), CATALOG, tokens=1e11, gpus=8)
    assert len(found) == 1
    story = thrift_page.Story(plain, found, "quality", 1e9, 4989, SPEED)
    assert "none of the ideas" in thrift_page.page(story, CATALOG).verdict


@pytest.mark.parametrize(
    ("name", "gpu", "gpus"), [("mixtral", "h100", 64), ("deepseek-v2-lite", "h100", 8)]
)
def test_the_steps_multiply_to_the_verdict(name: str, gpu: str, gpus: int) -> None:
    found, made = stages(name, gpu, gpus), page(name, gpu, gpus)
    for column, number in (("dollars", 0), ("price", 1)):
        values = [getattr(stage, column) for stage in found]
        product = math.prod(a / b for a, b in pairwise(values))
        said = float(made.numbers[number].value.rstrip("x"))
        assert product == pytest.approx(said, rel=0.05)
    training = made.sections[0].blocks[0].rows
    for before, row, stage in zip(found, training[1:], found[1:], strict=False):
        assert (float(row[-1].rstrip("%")) > 0) == (stage.dollars < 0.995 * before.dollars)


def test_what_ideas_do_to_bytes_and_flops() -> None:
    plain, latent, sparse = stages("deepseek-v2-lite", "h100", 8)
    assert latent.cache < plain.cache / 5 and sparse.flops < latent.flops / 2
    assert sparse.weights > latent.weights
    assert "all-to-all" in sparse.overhead
    networks = [network for _, network, _ in stages_of(V3, "total", fp8=True)]
    totals = [parameters(network)["total"] for network in networks]
    assert max(totals) == pytest.approx(min(totals), rel=0.02)


def test_what_ideas_cost_is_said_in_figures() -> None:
    found = stages("deepseek-v3", "h800", 2048)
    before = dict(zip([stage.idea for stage in found[1:]], found, strict=False))
    said = {stage.idea: stage.overhead for stage in found}
    plan = {stage.idea: stage.plan for stage in found}

    def of(idea: str, part: str) -> float:
        return plan[idea].step.parts[part].value / plan[idea].step.total.value

    assert said[found[0].idea] == ""
    assert "heads of 192" in said[LATENTS]
    plain = before[LATENTS].shape
    scores = 128 * (2 * 512 + 64) / (plain.heads * 2 * plain.head_dim)
    scores *= found[1].shape.heads / 128 * found[1].shape.layers / plain.layers
    assert f"take {scores:.2g} times the FLOPs" in said[LATENTS]
    assert f"all-to-all {of(EXPERTS, 'expert'):.0%}" in said[EXPERTS]
    held = parameters(V3)["total"] / parameters(found[1].shape)["total"]
    assert f"{held:.2g} times the parameters" in said[EXPERTS]
    grouped = {stage.idea: stage for stage in stages("mixtral", "h100", 64)}[GROUPS]
    share = grouped.shape.heads / grouped.shape.kv_heads  # of the dense network, which is larger
    assert share != 4 and f"{share:.3g} heads share keys in the dense network" in grouped.overhead
    assert f"4 in {mixtral().name}: fewer to choose from" in grouped.overhead
    casts, none = of(FP8, "memory"), of(EXPERTS, "memory")
    assert casts > none and f"{casts:.0%} of the training step, {none:.0%} before" in said[FP8]
    more = found[-1].flops / before[MTP].flops - 1
    assert f"{more / (1 + more):.1%} of training's FLOPs, 11.6B parameters" in said[MTP]


def test_each_line_takes_the_practice_of_the_whole_network() -> None:
    found = stages("deepseek-v3", "h800", 2048)
    factor = found[-1].plan.practice.factor
    for stage in found:
        clean = stage.plan.clean_hours / stage.plan.good.useful
        assert stage.hours == pytest.approx(factor * clean)
    assert found[-1].plan.gpu_hours.p50 == pytest.approx(found[-1].hours, rel=0.01)


def test_alike_is_said_as_alike() -> None:
    said = [thrift_page._way(ratio) for ratio in (2.0, 1.04, 1.0, 0.97, 0.5)]
    assert said == ["2.0 times", *["as much"] * 3, "it costs 2.0 times"]


def test_what_the_network_leaves_out_is_said() -> None:
    found = stages("llama-3.1-8b", "h100", 8)
    half = replace(mixtral(), left_out=("half of it is not counted",))
    page = thrift_page.page(thrift_page.Story(half, found, "quality", 1e9, 4989, SPEED), CATALOG)
    assert "('network', 'half of it is not counted')" in str(page.sections[-1])


def test_why_names_rent_and_constants() -> None:
    found = stages("mixtral", "h100", 64)
    story = thrift_page.Story(mixtral(), found, "quality", 1e9, 4989, SPEED)
    last = thrift_page.page(story, CATALOG, why=True).sections[-1]
    for key in ("rent.h100-sxm", "h100-sxm.bandwidth", "expert_hidden", "reach.h100-sxm"):
        assert key in str(last)


def test_no_replica_is_readable_and_no_json_holds_infinity() -> None:
    found = waterfall(mixtral(), CATALOG.gpu("h100"), CATALOG, tokens=1e12, gpus=64, speed=9999.0)
    assert not found[0].served.gpus and math.isinf(found[0].price)
    made = [to_dict(stage) for stage in found]
    assert json.loads(json.dumps(made, allow_nan=False)) == json.loads(json.dumps(made))
    assert made[0]["serving"]["dollars_per_million_tokens"] is None
    story = thrift_page.Story(mixtral(), found, "quality", 1e9, 4989, 9999.0)
    text = str(thrift_page.page(story, CATALOG))
    assert "none" in text and "inf" not in text.replace("info", "") and "nan" not in text
    assert "No replica of it decodes 9999" in text


def test_every_check_is_a_command_that_this_program_takes() -> None:
    checks = {}
    for name in ("deepseek-v2-lite", "llama-3.1-8b"):
        checks |= {stage.idea: stage.check for stage in stages(name, "h100", 8)}
    from benthic.cost.planner.thrift import _CHECKS

    checks |= {idea: _CHECKS[idea] for idea in (FP8, MTP)}
    assert len(checks) == 6
    shapes, runs = {}, {"laptop"}
    for idea, check in checks.items():
        seen = parsed(check)
        if seen["verb"] == "run":
            model = load_recipe(seen["recipe"], list(seen.get("set_", ()))).model
            shapes[idea] = model
            runs.add(seen.get("name") or seen["recipe"])
    plain = next(model for idea, model in shapes.items() if idea.startswith(PLAIN))
    assert not plain.n_routed_experts and not plain.latent and not plain.num_nextn_predict_layers
    assert plain.num_key_value_heads == plain.num_attention_heads
    assert shapes[GROUPS].num_key_value_heads < shapes[GROUPS].num_attention_heads
    assert not shapes[GROUPS].n_routed_experts and not shapes[GROUPS].num_nextn_predict_layers
    assert shapes[LATENTS].latent and shapes[LATENTS].num_nextn_predict_layers == 0
    assert shapes[LATENTS].first_k_dense_replace == shapes[LATENTS].num_hidden_layers
    assert shapes[EXPERTS].first_k_dense_replace < shapes[EXPERTS].num_hidden_layers
    assert shapes[EXPERTS].n_routed_experts and shapes[EXPERTS].num_nextn_predict_layers == 0
    assert shapes[MTP].num_nextn_predict_layers == 1
    exported = parsed(checks[FP8])
    assert exported["dtype"] == "fp8" and exported["path"].name in runs


def parsed(command: str) -> dict[str, Any]:
    """What a verb would be called with."""
    program, verb, *words = shlex.split(command)
    assert program == "benthic"
    function = {"run": cli.run, "export": cli.export}[verb]
    seen: dict[str, Any] = {"verb": verb}

    @wraps(function)
    def record(*args: Any, **given: Any) -> None:
        seen.update(given)
        if args:
            seen["recipe" if verb == "run" else "path"] = args[0]

    tyro.cli(record, args=words, config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff))
    if "set_" in seen:
        seen["set_"] = [word for group in seen["set_"] for word in _flat(group)]
    return seen


def _flat(group: Any) -> list[str]:
    return [group] if isinstance(group, str) else list(group)


@pytest.mark.parametrize("gpu", ["h800", "h100"])
def test_the_floor_of_serving_is_above_deepseeks_service_and_not_absurdly(gpu: str) -> None:
    pace = cheapest(replace(V3, mtp=0), CATALOG.gpu(gpu), "fp8", 4989).pace
    assert SERVICE < pace < 2.5 * SERVICE


@settings(max_examples=5)
@given(st.sampled_from([1.0, 5.0, 20.0, 80.0]), st.sampled_from([512, 5000, 60_000]))
def test_quicker_or_longer_is_never_cheaper_to_serve(speed: float, context: int) -> None:
    gpu = CATALOG.gpu("h100")
    one = cheapest(mixtral(), gpu, "bf16", context, speed)
    assert cheapest(mixtral(), gpu, "bf16", context, 2 * speed).pace <= one.pace * 1.001
    assert cheapest(mixtral(), gpu, "bf16", 2 * context, speed).pace <= one.pace * 1.001
    assert one.pace >= speed * one.batch / max(one.gpus, 1) * 0.999


def test_guesses_do_not_pay_where_the_batch_is_large_already() -> None:
    """At 20 tokens a second a guess spares little: a 61st of each step, for the block, decides."""
    assert not cheapest(V3, CATALOG.gpu("h100"), "fp8", 4989, 20.0).guesses


def test_guesses_pay_where_weights_are_read_for_few() -> None:
    gpu = CATALOG.gpu("h100")
    quick = cheapest(V3, gpu, "fp8", 4989, 60.0)
    assert quick.guesses
    assert quick.pace > cheapest(replace(V3, mtp=0), gpu, "fp8", 4989, 60.0).pace
    assert cheapest(V3, gpu, "fp8", 4989, 20.0).pace >= quick.pace


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"context": 0}, "--context is 0"),
        ({"speed": float("nan")}, "--speed is nan"),
        ({"gpus": 0}, "--count is 0"),
        ({"seq": -1}, "--seq is -1"),
        ({"tokens": "-1"}, "tokens is '-1'"),
        ({"gpu": "h101"}, "did you mean"),
        ({"rent": "2 EUR"}, "US dollars"),
        ({"config": "nothing"}, "no preset"),
    ],
)
def test_bad_input_is_one_sentence(more: dict[str, Any], match: str) -> None:
    asked: dict[str, Any] = {
        **{"config": "llama-3.2-1b", "gpu": "h100", "gpus": None, "tokens": "", "seq": None},
        **{"context": None, "speed": 20.0, "by": "quality", "rent": "", "date": ""},
        **{"prices": (), "why": False, "as_json": False},
    }
    with pytest.raises(CostError, match=match) as caught:
        show(**asked | more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("guesses", [False, True])
def test_a_step_of_a_replica_by_hand(guesses: bool) -> None:
    gpu, batch, context, constants = CATALOG.gpu("h800"), 6400, 4000, load_constants()
    replica = _Replica(V3, gpu, "fp8", context, 64, 1, guesses)
    counts, flops = parameters(V3), decode_parts(V3, context=context)
    assert gpu.fp8_flops and gpu.scale_out
    rows = 100 * (1 + guesses)  # of a GPU
    scores = max(  # caches without guesses, products with them
        100 * 61 * 576 * 2 * context / gpu.bandwidth,
        rows * 61 * 128 * 2 * (576 + 512) * context / gpu.bf16_flops,
    )
    copied = counts["total"] - counts["experts"] - counts["embedding"] + guesses * counts["mtp"]
    others = sum(flops.values()) - flops["attention_scores"] - flops["experts"]
    rest = max(copied / gpu.bandwidth, rows * others / gpu.fp8_flops)
    met = counts["experts"] / 64 * (1 - (1 - 8 / 256) ** (64 * rows))
    experts = max(met / gpu.bandwidth, rows * flops["experts"] / gpu.fp8_flops)
    work = (scores + rest + experts) / REACHED
    sent = 58 * rows * (1 + 2) * 7168  # bytes of a copy of each token, there and back
    nodes = 8 * (1 - (7 / 8) ** 8) * 7 / 8  # that eight copies meet, of the seven others
    talk = sent * nodes / (gpu.scale_out * constants.scale_out)
    left = talk * (1 - constants.expert_hidden)
    assert replica.step(batch) == pytest.approx(work + left, rel=1e-6)


def test_heads_that_share_a_split_hold_fewer_bytes_and_latents_do_not() -> None:
    gpu = CATALOG.gpu("h800")
    held = [_Replica(V3, gpu, "fp8", 4000, 32, tensor, False) for tensor in (1, 8)]
    assert held[1]._cached(64) == 8 * held[0]._cached(64)
    assert held[1].held < held[0].held
    groups = [_Replica(mixtral(), gpu, "bf16", 4000, 8, tensor, False) for tensor in (1, 8)]
    assert groups[1]._cached(64) == groups[0]._cached(64)
    wide = _Replica(mixtral(), gpu, "bf16", 4000, 16, 16, False)  # eight heads on sixteen GPUs
    assert wide._cached(64) == groups[1]._cached(64)
