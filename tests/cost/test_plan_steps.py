"""Steps of a plan: whose batch they have, that they are whole, and GPUs that do not share one."""

import re
from dataclasses import replace

import pytest

from benthic.cost.catalog.load import Catalog, CostError
from benthic.cost.network.read_shape import from_row, shape
from benthic.cost.network.widths import from_numbers
from benthic.cost.planner import plan as planner
from benthic.cost.planner import plan_page
from benthic.cost.planner.basis import Basis, Question, held
from benthic.cost.planner.choose import TooFewSequences, fastest, usual_batch
from benthic.cost.planner.plan import plan
from benthic.cost.planner.published_batch import published_batch
from benthic.cost.planner.thrift import waterfall
from benthic.cost.step.layout import parse
from tests.cost.test_plan import CATALOG, SMALL, planned

V3 = Question(
    shape=shape("deepseek-v3"), gpu="h800", gpus=2048, tokens=14.8e12, seq=4096, precision="fp8"
)
ROWS = {row["model"]: from_row(row) for row in CATALOG.table("run_shapes")}
FALCON = Question(shape=ROWS["Falcon-180B"], gpu="a100-40gb", gpus=4096, tokens=3.5e12, seq=2048)


def test_the_published_batch_is_taken_and_said() -> None:
    for given in (None, replace(parse("pp16 ep64 dp128 zero1"), precision="fp8")):
        one = planned(replace(V3, layout=given))
        assert one.step.tokens == pytest.approx(62914560, rel=0.01)
        assert any("as DeepSeek-V3 was published with" in note for note in one.assumptions)
    # 180,000 hours a trillion tokens are what the report has.
    assert one.clean_hours / one.good.useful / 14.8 == pytest.approx(180e3, rel=0.02)
    own = planned(replace(V3, batch=2.0**24))
    assert own.step.tokens == 2**24 and "published" not in str(own.assumptions)


def test_the_very_network_is_known_by_blocks_width_and_parameters() -> None:
    falcon = ROWS["Falcon-180B"]
    for one in (falcon, replace(falcon, tied=True), replace(falcon, vocab=65536)):
        found = published_batch(one, CATALOG)
        assert found and (found.run, found.tokens) == ("Falcon-180B", 4194304)
    for other in (replace(falcon, layers=79), replace(falcon, ffn=2 * falcon.ffn)):
        assert published_batch(other, CATALOG) is None
    assert published_batch(from_numbers(params=179.5e9)[0], CATALOG) is None
    assert published_batch(ROWS["Llama 3.1 8B"], CATALOG) is None  # none was published
    for name, row in ROWS.items():
        found = published_batch(row, CATALOG)
        assert found is None or found.tokens >= 2**19, name


def test_a_published_batch_that_no_layout_shares_is_said_to_be_so() -> None:
    small = replace(FALCON, shape=ROWS["llm.c GPT-2 124M"], gpus=1 << 16, seq=1024, tokens=1e10)
    with pytest.raises(TooFewSequences):
        fastest(small.shape, CATALOG.gpu("a100-40gb"), 1 << 16, 1024, batch=524288)
    note = next(note for note in planned(small).assumptions if "tokens a step" in note)
    assert note.startswith("16.8M") and "holds the 524,288 of llm.c GPT-2 124M" in note


def test_thrift_keeps_the_step_of_the_given_network() -> None:
    gpu = CATALOG.gpu("h800")
    stages = waterfall(V3.shape, gpu, CATALOG, tokens=14.8e12, fp8=True, gpus=2048, seq=4096)
    for stage in stages:
        assert stage.plan.step.tokens == pytest.approx(62914560, rel=0.05), stage.idea


@pytest.mark.parametrize("tokens", [1000.0, 1e6])
def test_less_than_a_step_is_refused(tokens: float) -> None:
    with pytest.raises(CostError, match=r"tokens are less than one step of 2,097,152: give more"):
        plan(replace(SMALL, tokens=tokens), CATALOG)
    step = planned(replace(SMALL, tokens=float(2**21)))
    assert step.steps == 1 and "1 step only" in str(step.assumptions)
    assert "1 clean step takes" in str(plan_page.story(step, CATALOG))


def test_a_begun_step_is_paid_in_full() -> None:
    one, two = (planned(replace(SMALL, tokens=times * 2.0**21)) for times in (1.2, 2.0))
    assert one.steps == two.steps == 2 and one.clean_hours == two.clean_hours
    assert one.gpu_hours.p50 == pytest.approx(two.gpu_hours.p50)
    assert one.clean_hours == pytest.approx(2 * one.step.total.value * one.gpus / 3600)


@pytest.mark.parametrize("budget", [97.0, 1234.5, 5e4])
def test_bought_tokens_are_whole_steps_within_the_budget(budget: float) -> None:
    one = planned(replace(SMALL, tokens=None, budget=budget))
    assert one.tokens % one.step.tokens == 0
    step = one.dollars.p50 / one.steps
    assert budget - 1.001 * step < one.dollars.p50 <= budget * (1 + 1e-9)


def test_gpus_that_do_not_share_a_step_are_told_what_would_do() -> None:
    many = replace(SMALL, gpus=1 << 16, layout=None, batch=2.0**19)
    with pytest.raises(
        CostError, match=r"of 128 sequences of 4,096 tokens .*for 65,536 GPUs"
    ) as few:
        plan(many, CATALOG)
    said = re.search(r"\(--count\), or ([\d,]+) tokens a step \(--batch-tokens\)", str(few.value))
    assert said
    enough = plan(replace(many, batch=float(said[1].replace(",", ""))), CATALOG)
    assert enough.gpus == 1 << 16


def test_fewer_gpus_are_taken_where_nobody_named_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(SMALL, gpus=None, layout=None, seq=131072, batch=2.0**19)
    found = held(asked, CATALOG, 1 << 15)
    assert 8 <= found.gpus < 1 << 15
    tries = list[int]()

    def counting(question: Question, catalog: Catalog, gpus: int) -> Basis:
        tries.append(gpus)
        return held(question, catalog, gpus)

    monkeypatch.setattr(planner, "held", counting)
    one = plan(replace(asked, tokens=1e14), CATALOG)
    assert len(tries) <= 3  # more would not share the step either
    assert one.gpus <= 1 << 15 and "come nearest to 30 days" in str(one.assumptions)


@pytest.mark.parametrize("batch", [15360.0, 1e5, 2.6e5])
def test_a_layout_refuses_a_step_that_it_cannot_share(batch: float) -> None:
    wide = replace(V3, layout=replace(parse("pp16 ep64 dp128 zero1"), precision="fp8"))
    with pytest.raises(CostError, match=r"128 sequences .* 524,288 in all, and --batch-tokens is"):
        plan(replace(wide, batch=batch), CATALOG)
    near = planned(replace(wide, batch=4e5))
    assert near.step.tokens == 524288
    assert "0.524M tokens a step, for the 400,000 that you gave, rounded" in str(near.assumptions)
    assert "tokens a step" not in str(planned(replace(wide, batch=524288.0)).assumptions)


def test_the_usual_batch_is_said_where_a_layout_rounds_it() -> None:
    odd = planned(replace(SMALL, gpus=768, layout=parse("dp768")))
    assert usual_batch(SMALL.shape, 768) % 768
    assert "usual at this size, rounded to what the layout divides" in str(odd.assumptions)


def test_a_layout_that_names_its_parts_has_a_step_of_its_own() -> None:
    one = planned(replace(V3, layout=replace(parse("pp16 ep64 dp128 zero1 acc4"), precision="fp8")))
    assert one.step.tokens == 128 * 4 * 4096
    told = next(note for note in one.assumptions if "tokens a step" in note)
    assert told.startswith("2.1M tokens a step, of your layout")
