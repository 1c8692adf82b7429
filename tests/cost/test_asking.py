"""From words of the command line to a question: what is read, and what is refused in a sentence."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic import cli_cost
from benthic.cost.catalog.load import CostError, load
from benthic.cost.planner.asking import Asked, ask, in_fp8, question, rent_of
from benthic.cost.planner.basis import Question
from benthic.cost.step.calibrate import shipped

CATALOG = load()
NOTHING = Asked(
    **{"config": "", "numbers": {}, "gpu": "", "gpus": None, "tokens": "", "days": ""},
    **{"budget": "", "compare": "", "seq": None, "batch": "", "layout": "", "precision": "auto"},
    optimizer="adamw",
    **{"rent": "", "date": "", "pace": "", "prices": ()},
)
LLAMA = {
    **{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632},
    **{"num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4},
    **{"vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False},
    **{"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu"},
}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
GPT2 = {
    **{"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12},
    **{"n_positions": 1024, "vocab_size": 50257},
}


def asked(**more: Any) -> Asked:
    return replace(NOTHING, **more)


@pytest.mark.parametrize(
    ("text", "days"),
    [("30", 30), ("30d", 30), ("0.5", 0.5), ("12h", 0.5), ("2 weeks", 14), ("1y", 365)],
)
def test_days_have_their_unit_in_the_name(text: str, days: float) -> None:
    assert question(asked(days=text), CATALOG).days == pytest.approx(days)


@pytest.mark.parametrize("text", ["2.5", "$2.50", "2.5/h", "$2.50 / hour", "2.50 USD/GPU-h"])
def test_a_rent_is_of_an_hour(text: str) -> None:
    assert rent_of(text) == 2.5
    assert rent_of("") is None


def test_what_a_config_leaves_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "text_config": MIXTRAL}))
    said = question(asked(config=str(tmp_path), tokens="1T"), CATALOG).said
    assert said == ("the text part alone is counted: its towers for images or sound are not",)


@pytest.mark.parametrize(
    ("keys", "total"),
    [(LLAMA, 1.1e9), (MIXTRAL, 6.4e9), (GPT2, 124e6)],
)
def test_a_config_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], total: float
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(keys))
    words = asked(config=str(tmp_path), tokens="10B", gpus=8)
    assert ask(words, why=False, as_json=True) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["parameters"]["total"] == pytest.approx(total, rel=0.05)
    assert made["sequence"] <= made["network"]["max_positions"]
    assert made["dollars"]["p10"] < made["dollars"]["p50"] < made["dollars"]["p90"]


def test_plain_numbers_keep_the_name_they_were_given() -> None:
    numbers = {"params": "671b", "active": "37B", "experts": 256, "experts_per_token": 8}
    found = question(asked(numbers=numbers, tokens="1T"), CATALOG)
    assert found.shape.name == "671B, 37B active"
    assert found.shape.experts == 256 and any("assumed" in note for note in found.said)
    dense = question(asked(numbers={"params": "70B", "layers": 80}, tokens="1T"), CATALOG)
    assert dense.shape.name == "70B" and dense.shape.layers == 80


def test_precision_is_what_the_network_and_the_gpu_have() -> None:
    def of(**more: Any) -> str:
        words = asked(**{"config": "deepseek-v3", "tokens": "1T"} | more)
        return question(words, CATALOG).precision

    assert of() == "fp8" and of(gpu="a100") == "bf16" and of(gpu="t4") == "fp16"
    assert of(config="llama-3.1-8b") == "bf16" and of(precision="bf16") == "bf16"
    layout = question(
        asked(config="deepseek-v3", tokens="1T", layout="dp8 bf16", gpus=8), CATALOG
    ).layout
    assert layout is not None and layout.precision == "bf16"
    bare = question(asked(config="deepseek-v3", tokens="1T", layout="tp8", gpus=64), CATALOG)
    assert bare.layout is not None and bare.layout.precision == "fp8" and bare.layout.data == 8


def test_a_release_in_fp8_is_said_to_be_taken_for_training() -> None:
    def of(**more: Any) -> Question:
        return question(asked(**{"config": "kimi-k2", "tokens": "1T"} | more), CATALOG)

    assert of().precision == of().usual == "fp8" and "taken to be trained" in str(of().said)
    plain = of(precision="bf16")
    assert (plain.precision, plain.usual) == ("bf16", "fp8") and not plain.said
    assert of(gpu="a100").usual == "bf16" and not of(gpu="a100").said
    assert of(gpu="a100", precision="fp16").usual == "bf16" and of(gpu="v100").usual == "fp16"
    assert of(layout="dp8 bf16", gpus=8).usual == "fp8"


def test_released_in_fp8(tmp_path: Path) -> None:
    assert in_fp8("deepseek-v3") and not in_fp8("llama-3.1-8b") and not in_fp8("nowhere")
    quantized = LLAMA | {"quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(quantized))
    assert in_fp8(str(tmp_path)) and in_fp8(str(tmp_path / "config.json"))


def test_the_users_prices_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.csv"
    file.write_text("key,value,unit\nrent.h100,1.5,USD/h\n")
    words = asked(config="llama-3.2-1b", tokens="1B", gpus=8, prices=(file,))
    ask(words, why=True, as_json=False)
    out = " ".join(capsys.readouterr().out.split())
    assert "$1.50 a GPU-hour" in out and "own.csv, line 2" in out


@pytest.mark.parametrize(
    "words",
    [
        {"config": "llama-3.2-1b", "tokens": "1B", "gpus": 8},
        {"config": "llama-3.2-1b", "tokens": "1B", "gpus": 8, "compare": "h100,a100"},
        {"budget": "2000", "gpus": 8},
    ],
)
def test_why_has_its_answer_whatever_is_asked(
    capsys: pytest.CaptureFixture[str], words: dict[str, Any]
) -> None:
    ask(asked(**words), why=True, as_json=False)
    out = capsys.readouterr().out
    for key in ("rent.h100-sxm", "gpu_mtbf", "matmul", "reach.h100-sxm", "practice.noise"):
        assert key in out
    ask(asked(**words), why=True, as_json=True)
    made = json.loads(capsys.readouterr().out)
    one = made[0] if isinstance(made, list) else made
    assert any(line.startswith("reach.h100-sxm = 0.93 x") for line in one["sources"])
    ask(asked(**words), why=False, as_json=True)
    assert "sources" not in capsys.readouterr().out


@pytest.mark.parametrize("key", ["matmul", "Reach.H100-SXM", "practice.noise", "unfused.launch"])
def test_constants_are_not_prices(tmp_path: Path, key: str) -> None:
    file = tmp_path / "own.csv"
    file.write_text(f"key,value,unit\nrent.h100,1.5,USD/h\n{key},0.5,fraction\n")
    words = asked(config="llama-3.2-1b", tokens="1B", gpus=8, prices=(file,))
    with pytest.raises(CostError, match=r"line 3: .* constant of speed_constants.csv.* --pace"):
        ask(words, why=False, as_json=False)
    assert not shipped().keys() & set(CATALOG.keys())


def test_compare_leaves_out_what_has_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    words = asked(config="llama-3.2-1b", tokens="1B", gpus=1, compare="h100,h100,m3-ultra")
    assert ask(words, why=False, as_json=True) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["gpu"] == "H100-SXM" and "no rent" in second["error"]
    ask(words, why=False, as_json=False)
    assert "M3-Ultra" in capsys.readouterr().out
    ask(replace(words, compare="h100,h9"), why=False, as_json=True)
    first, second = json.loads(capsys.readouterr().out)
    assert first["gpu"] == "H100-SXM" and second["error"].startswith("no GPU is called 'h9'")
    with pytest.raises(CostError, match="no rent"):
        ask(replace(words, compare="m3-ultra"), why=False, as_json=False)


def test_a_budget_alone_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    ask(asked(budget="2000", gpus=8), why=False, as_json=False)
    assert capsys.readouterr().out.startswith("$2,000 trains")
    ask(asked(days="3", gpus=8), why=False, as_json=True)
    first, *others = json.loads(capsys.readouterr().out)
    assert first["ratio"] == 20 and len(others) == 2


BASE = {"config": "llama-3.2-1b", "tokens": "1B"}


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({}, "nothing is asked"),
        ({"config": "llama-3.2-1b"}, "lacks an end"),
        ({"tokens": "1T"}, "nothing is asked"),
        ({"days": "30"}, "give --count or --budget"),
        (BASE | {"days": "0"}, "--days is 0: give more than none"),
        (BASE | {"days": "-3"}, "--days is -3"),
        (BASE | {"days": "nan"}, "--days is nan"),
        (BASE | {"days": "30x"}, "with a unit"),
        (BASE | {"tokens": "-5T"}, "between"),
        (BASE | {"tokens": "14.8"}, r"between 1,000 and 10,000T: did you mean 14\.8T\?"),
        (BASE | {"tokens": "14,8T"}, "a comma separates thousands"),
        (BASE | {"tokens": "NaN"}, "write a number"),
        (BASE | {"tokens": "1e999"}, "between"),
        (BASE | {"tokens": "1e17"}, "between 1,000 and 10,000T"),
        (BASE | {"budget": "50000 EUR"}, "rate of your own"),
        (BASE | {"budget": "1e13"}, r"between 0\.01 and 1T"),
        (BASE | {"budget": "5,6M"}, "a comma separates thousands"),
        (BASE | {"days": "1.500"}, "1.5 here and 1500 elsewhere"),
        (BASE | {"budget": "-1"}, "between"),
        (BASE | {"rent": "0"}, "between"),
        (BASE | {"rent": "5000"}, r"between 0\.01 and 1,000, like 2\.10"),
        (BASE | {"gpu": "h101"}, "did you mean"),
        (BASE | {"gpus": 0}, "--count is 0"),
        (BASE | {"gpus": 10**7}, "--count is 10,000,000"),
        (BASE | {"seq": 0}, "--seq is 0"),
        (BASE | {"batch": "10"}, "does not hold a sequence of 4,096"),
        (BASE | {"batch": "1e12"}, "--batch-tokens"),
        (BASE | {"pace": "0"}, "--pace"),
        (BASE | {"pace": "10M"}, "divide by the number of GPUs"),
        (BASE | {"date": "2019-01"}, "dates with figures go from"),
        (BASE | {"date": "2999-01"}, r"no price is known yet: give one up to \d{4}-\d\d-\d\d"),
        (BASE | {"date": "tomorrow"}, "is no date"),
        (BASE | {"gpu": "m3-ultra"}, "or give --rent"),
        (BASE | {"gpu": "a100", "precision": "fp8"}, "plan with --precision bf16"),
        (BASE | {"gpu": "v100", "precision": "bf16"}, "plan with --precision fp16"),
        (BASE | {"precision": "int8"}, "choose auto, bf16, fp16, fp8 or fp32"),
        (BASE | {"optimizer": "lion"}, "choose adamw or muon"),
        (BASE | {"layout": "xx4", "gpus": 8}, "the words are"),
        (BASE | {"layout": "tp3", "gpus": 8}, "do not divide 8"),
        (BASE | {"layout": "dp8 bf16", "precision": "fp8"}, "leave one of them"),
        ({"config": "deepseek-v3", "tokens": "1T", "layout": "pp16 ep64"}, "name dp in it"),
        (BASE | {"numbers": {"params": "1B"}}, "leave one of them"),
        ({"numbers": {"params": "70"}, "tokens": "1T"}, "did you mean 70B"),
        ({"numbers": {"params": "70B", "active": "13"}, "tokens": "1T"}, "did you mean 13B"),
        ({"numbers": {"params": "70B", "active": "80B"}, "tokens": "1T"}, "give fewer"),
        ({"numbers": {"heads": 8}, "tokens": "1T"}, "give --params"),
        ({"compare": "h100,h200", "tokens": "1T"}, "none is named"),
        ({"budget": "1M", "layout": "dp8"}, "none is named"),
        (BASE | {"compare": ","}, "name GPUs"),
        (BASE | {"compare": "h9,xx"}, "no GPU is called"),
        (BASE | {"gpu": "xx"}, "take A100-SXM4-80GB, A100-SXM4-40GB or another of the"),
        (BASE | {"gpu": "h100,h200"}, "compare several with --compare"),
        (BASE | {"compare": "h100,h200", "rent": "2"}, "--prices"),
        (BASE | {"compare": "h100,h200", "gpu": "a100"}, "--compare names several"),
        (BASE | {"prices": (Path("none.csv"),)}, "is no file"),
        (BASE | {"config": "llama-3.2-2b"}, "did you mean llama-3.2-1b"),
    ],
)
def test_what_is_refused_in_one_sentence(words: dict[str, Any], match: str) -> None:
    with pytest.raises(CostError, match=match) as caught:
        ask(asked(**words), why=False, as_json=False)
    text = str(caught.value)
    assert "\n" not in text and ":" in text


@pytest.mark.parametrize(
    ("count", "gpus"), [("1,024", 1024), ("1k", 1000), ("8", 8), ("1e3", 1000), ("1.5k", 1500)]
)
def test_whole_numbers_are_read_as_others_are(
    capsys: pytest.CaptureFixture[str], count: str, gpus: int
) -> None:
    cli_cost.plan("llama-3.2-1b", count=count, seq="4k", tokens="1B", layout="zero3", json=True)
    made = json.loads(capsys.readouterr().out)
    assert (made["gpus"], made["sequence"]) == (gpus, 4000)


@pytest.mark.parametrize("text", ["1.5", "x", "1.000", "1,5", "0.0005k", "nan"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    for flags in ({"count": text}, {"seq": text}, {"kv_heads": text}):
        name = next(iter(flags)).replace("_", "-")
        with pytest.raises(CostError, match=rf"--{name} is '{text}': .*number.*, like 1,024"):
            cli_cost.plan("llama-3.2-1b", tokens="1B", **flags)
    with pytest.raises(CostError, match="--context is"):
        cli_cost.thrift("llama-3.2-1b", context=text)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"by": "active"}, "--by is 'active': choose quality or total"),
        ({"speed": "fast"}, "--speed is 'fast': write a number .*, like 20"),
    ],
)
def test_words_of_thrift_that_are_refused(flags: dict[str, str], match: str) -> None:
    with pytest.raises(CostError, match=match):
        cli_cost.thrift("llama-3.2-1b", **flags)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"model_type": "mamba", "hidden_size": 8}, "give --params and --layers"),
        (GPT2 | {"n_layer": -1}, "config.json"),
        (LLAMA | {"hidden_size": "wide"}, "config.json"),
        ([], "config.json"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, keys: Any, match: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(keys))
    with pytest.raises(CostError, match=match):
        ask(asked(config=str(tmp_path), tokens="1T"), why=False, as_json=False)


def test_longer_than_learned_positions(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    with pytest.raises(CostError, match="set --seq 1024 or less"):
        ask(asked(config=str(tmp_path), tokens="1B", seq=2048), why=False, as_json=False)


@settings(max_examples=20)
@given(
    st.sampled_from(["tokens", "days", "budget", "rent", "date", "pace", "layout", "gpu", "batch"]),
    st.one_of(st.text(max_size=12), st.floats().map(str), st.integers().map(str)),
)
def test_any_text_is_read_or_refused(field: str, text: str) -> None:
    words = asked(**BASE | {"gpus": 8, "layout": "dp8", field: text})
    try:
        found: Question | CostError = question(words, CATALOG)
    except CostError as error:
        found = error
    if isinstance(found, CostError):
        assert "\n" not in str(found)
    else:
        assert found.tokens is None or found.tokens >= 1000
