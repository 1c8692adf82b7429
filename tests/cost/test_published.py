"""The published case: every identity, every dependence, every refusal; its text and its page."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benthic.cost import page
from benthic.cost.cases import published, rings
from benthic.cost.cases.published import SHIPPED, Case
from benthic.cost.catalog.load import CostError

M = 1e6


@pytest.fixture(scope="module")
def case() -> Case:
    return published.load()


@pytest.fixture(scope="module")
def f(case: Case) -> dict[str, float]:
    return published.solve(case)


IDENTITIES = {
    # figure: value as published, places after the point, unit of it
    "run.pretrain_hours": (2_664_000, 0, 1),
    "run.hours": (2_788_000, 0, 1),
    "run.days": (54.2, 1, 1),
    "run.pretrain_cost": (5.328, 3, M),
    "headline.cost": (5.576, 3, M),
    "v3.flops": (250.5, 1, 1e9),
    "v3.cache": (70_272, 0, 1),
    "r1.hours": (147_000, 0, 1),
    "r1.cost": (294_000, 0, 1),
    "r1.share": (0.053, 3, 1),
    "first.capex": (1.3, 1, 1e9),
    "first.chips": (46_000, 0, 1),
    "first.servers": (79_672, 0, 1),
    "fleet.capex": (1_629, 0, M),
    "fleet.opex": (944, 0, M),
    "fleet.cost": (2_573, 0, M),
    "fleet.rate": (1.2236, 4, 1),
    "fleet.per_year": (643.1, 1, M),
    "fleet.hours": (2_102, 0, M),
    "h100.capex": (347, 0, M),
    "a100.rate": (1.125, 3, 1),
    "h20.rate": (1.060, 3, 1),
    "h800.rate": (1.391, 3, 1),
    "h100.rate": (1.647, 3, 1),
    "hopper.count": (50_000, 0, 1),
    "hopper.capex": (1_391, 0, M),
    "hopper.per_year": (544.6, 1, M),
    "chips.without_h20": (565, 0, M),
    "fireflyer.usd": (155, 0, M),
    "own.cost": (3.88, 2, M),
    "own.average": (3.41, 2, M),
    "own.change": (-1.70, 2, M),
    "own.busy_rate": (1.74, 2, 1),
    "own.break_even": (0.70, 2, 1),
    "programme.hours": (15.7, 1, M),
    "programme.gpus": (21.8, 1, M),
    "programme.failed": (2.18, 2, M),
    "programme.staff": (37.5, 1, M),
    "key.flops": (7.4, 1, M),
    "key.peak": (99.8, 1, M),
    "ratio.all": (461, 0, 1),
    "ratio.hours": (754, 0, 1),
    "ratio.price": (0.612, 3, 1),
    "ratio.run_share": (0.0013, 4, 1),
    "blind.kw": (60.6, 1, 1000),
    "blind.a100": (121, 0, M),
    "blind.h20": (394, 0, M),
    "blind.h800": (182, 0, M),
    "blind.h100": (187, 0, M),
    "blind.opex": (885, 0, M),
    "blind.off": (-0.06, 2, 1),
    "serving.day": (87_072, 0, 1),
    "serving.income": (562.1, 1, 1000),
    "serving.prefill_nodes": (95.5, 1, 1),
    "serving.decode_nodes": (131.4, 1, 1),
    "serving.derived_nodes": (226.9, 1, 1),
    "serving.in_cost": (0.06, 2, 1),
    "serving.out_cost": (0.30, 2, 1),
    "finance.straight": (407, 0, M),
    "finance.annual": (514, 0, M),
    "finance.annual_resold": (426, 0, M),
}


@pytest.mark.parametrize("key", IDENTITIES)
def test_published_identities_hold_to_their_last_digit(f: dict[str, float], key: str) -> None:
    value, places, unit = IDENTITIES[key]
    assert round(f[key] / unit, places) == value


def test_the_first_print_and_its_margin(f: dict[str, float]) -> None:
    assert int(100 * f["serving.margin"]) == 545
    # 715 was summed before its columns were rounded to whole millions: 1.5 apart at most
    assert abs(f["first.opex"] - 715 * M) <= 1.5 * M
    assert f["fleet.opex"] - f["first.opex"] == pytest.approx(229.5 * M, abs=M)
    assert f["ratio.all"] == pytest.approx(f["ratio.hours"] * f["ratio.price"])


def test_ranges_of_the_programme_and_of_the_bottom_up(case: Case) -> None:
    least, most = published.programme_range(case)
    assert [round(c["programme.hours"] / M, 1) for c in (least, most)] == [9.3, 27.9]
    assert [round(c["programme.gpus"] / M, 1) for c in (least, most)] == [12.9, 38.8]
    assert [round(c["programme.cost"] / M) for c in (least, most)] == [31, 119]
    assert round(most["programme.rented"] / M) == 136
    assert round(least["programme.multiple"]) == 6
    assert round(most["programme.rented_multiple"]) == 24
    assert [round(end / M) for end in published.blind_range(case)] == [546, 1244]
    inner = published.blind_spread(case)
    assert 546 * M < inner.p10 < inner.p50 < inner.p90 < 1244 * M


def test_every_printed_figure_is_met(case: Case, f: dict[str, float]) -> None:
    off = {key: value for key, value in f.items() if key.startswith("check.")}
    assert len(off) == 18
    assert max(abs(v) for key, v in off.items() if key != "check.gpu_spend") < 0.015
    assert f["check.gpu_spend"] > 0  # "more than" 500 M$


@pytest.mark.parametrize("occupancy", [(0.96, 1.45), (0.80, 1.74), (0.60, 2.32)])
def test_the_h800_by_occupancy(case: Case, occupancy: tuple[float, float]) -> None:
    share, rate = occupancy
    found = published.evaluate(case.values() | {"use.occupancy": share})
    assert round(found["own.busy_rate"], 2) == rate


def test_rings_and_purposes_add_up(f: dict[str, float]) -> None:
    parts = ("research", "failed", "rl", "data", "staff")
    whole = f["own.cost"] + sum(f[f"programme.{p}"] for p in parts)
    assert whole == pytest.approx(f["programme.cost"], rel=1e-12)
    owners = f["programme.v3"] + f["programme.r1"] + f["programme.others"]
    assert owners == pytest.approx(f["programme.cost"], rel=1e-12)
    uses = ("run", "programme", "serving", "science", "trading", "other", "down", "idle")
    assert sum(f[f"use_of.{u}"] for u in uses) == pytest.approx(f["fleet.cost"], rel=1e-12)
    for pool in ("a100", "h20", "h800", "h100"):
        assert f[f"{pool}.capex"] + f[f"{pool}.opex"] == f[f"{pool}.cost"]
    assert f["h800.rate"] * f["h800.hours"] == pytest.approx(f["h800.cost"])


def test_each_line_reads_only_inputs_and_lines_above(case: Case) -> None:
    known = set(case.inputs)
    for line in published.formulas():
        assert line.reads <= known, line.key
        assert line.key not in known
        known.add(line.key)


def test_changing_any_input_changes_all_that_depends_on_it_and_nothing_else(
    case: Case, f: dict[str, float]
) -> None:
    for key, entry in case.inputs.items():
        found = published.evaluate(case.values() | {key: entry.value * 1.01})
        changed = {name for name in f if abs(found[name] - f[name]) > 1e-9 * abs(f[name])}
        reached = {figure for figure, inputs in published.roots().items() if key in inputs}
        assert changed == reached, key
        assert changed, f"{key} is dead"


RUN = {"run.hours_per_t", "run.tokens", "run.context_hours", "run.post_hours"}
H800 = {"h800.chip", "server.hopper", "h800.upkeep", "fleet.years"}
POOLS = ("a100", "h20", "h800", "h100")
FLEET = {f"{pool}.{of}" for pool in POOLS for of in ("count", "chip", "upkeep")} | {
    *("server.a100", "server.hopper", "fleet.years")
}
BLIND = {f"{pool}.{of}" for pool in POOLS for of in ("count", "chip", "kw")} | {
    *("server.a100", "server.hopper", "fleet.years", *published.SITE)
}
STAFF = {"programme.people", "programme.pay", "programme.years"}


@pytest.mark.parametrize(
    ("key", "inputs"),
    [
        ("headline.cost", RUN | {"price.rent"}),
        ("own.cost", RUN | H800),
        ("own.average", RUN | FLEET),
        ("programme.cost", RUN | H800 | STAFF | {"programme.final_share"}),
        ("fleet.cost", FLEET),
        ("ratio.all", RUN | FLEET | {"price.rent"}),
        ("blind.opex", BLIND),
        ("use_of.idle", FLEET | {"use.occupancy", "use.down"}),
        ("r1.cost", {"r1.zero_hours", "r1.data_hours", "r1.rl_hours", "price.rent"}),
        ("serving.day", {"serving.nodes", "serving.gpus_per_node", "price.rent"}),
    ],
)
def test_what_the_chief_figures_hang_on(key: str, inputs: set[str]) -> None:
    assert published.roots()[key] == inputs


def test_the_blind_figure_knows_nothing_of_the_table_it_checks() -> None:
    inputs = published.roots()["blind.opex"]
    assert not [key for key in inputs if key.endswith(".upkeep") or key.startswith("printed.")]
    assert set(published.SITE) <= inputs
    for key in ("headline.cost", "programme.cost", "fleet.cost"):
        assert not [i for i in published.roots()[key] if i.startswith("printed.")]


def test_spreads_are_seeded_and_their_parts_ordered(case: Case) -> None:
    first, again = published.spreads(case, count=50), published.spreads(case, count=50)
    assert first == again
    assert all(s.p10 <= s.p50 <= s.p90 for s in first.values())
    assert first["headline.cost"].p10 < first["headline.cost"].p90
    assert published.swings(case, "programme.cost")[0].key == "programme.pay"


def edited(tmp_path: Path, change: Callable[[str], str]) -> Path:
    path = tmp_path / "mine.toml"
    text = change(SHIPPED.read_text())
    assert text != SHIPPED.read_text()
    path.write_text(text)
    return path


def test_an_edited_copy_changes_the_answer(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda t: t.replace("value = 2.0\nlow = 1.7", "value = 3.0\nlow = 1.7"))
    found = published.solve(published.load(path))
    assert found["headline.cost"] == pytest.approx(8.364 * M)
    assert round(found["fleet.cost"] / M) == 2573


RENT = re.compile(r"\[price\.rent\](.|\n)*?\n\n")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[price.rent]", "[price.rant]", "unknown key 'price.rant': did you mean 'price.rent'"),
        ("[price.rent]", "[prize.rent]", "unknown key 'prize.rent': did you mean 'price.rent'"),
        ("value = 2.0\nlow", "valeu = 2.0\nlow", "unknown key 'valeu': did you mean 'value'"),
        ("value = 2.0\nlow", "low", "'price.rent' has no 'value'"),
        ("value = 2.0\nlow", "value = -2.0\nlow", "'price.rent' value is -2; in USD/GPU-hour"),
        ("value = 2.0\nlow", "value = nan\nlow", "value is nan"),
        ("value = 2.0\nlow", "value = inf\nlow", "value is inf"),
        ("value = 2.0\nlow", "value = 2e9\nlow", "must be from 0.001 to 1000"),
        ("value = 2.0\nlow", "value = true\nlow", "value is True; give a number"),
        ("value = 2.0\nlow", "value = '$2'\nlow", "the text '\\$2'; write the bare number"),
        ("value = 2.0\nlow", "value = 4.0\nlow", "low 1.7, value 4, high 3.42; put them in"),
        ("USD/GPU-hour", "EUR/GPU-hour", "is in EUR where the file counts in USD: two currencies"),
        ("USD/GPU-hour", "USD/GPU-day", "unit 'USD/GPU-day'; give the figure in 'USD/GPU-hour'"),
        ('date = "2024-12-27"', 'date = "soon"', "date 'soon'; write 2024, 2024-12 or"),
        ('date = "2024-12-27"', 'date = "2024-13"', "date '2024-13'"),
        ('confidence = "high"', 'confidence = "sure"', "confidence 'sure'; choose one of high"),
        ("value = 2.0\n", "value = 2.0\nvalue = 3.0\n", "is not valid TOML"),
    ],
)
def test_bad_input_is_one_sentence_with_a_remedy(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    def change(text: str) -> str:
        head, tail = text.split("[price.rent]")
        tail = "[price.rent]" + tail
        return head + tail.replace(old, new, 1)

    with pytest.raises(CostError, match=words) as caught:
        published.load(edited(tmp_path, change))
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_loose_and_impossible_figures(tmp_path: Path) -> None:
    with pytest.raises(CostError, match=r"has no 'price.rent'; copy that table"):
        published.load(edited(tmp_path, lambda t: RENT.sub("", t)))
    with pytest.raises(CostError, match="unknown key 'rent'"):
        published.load(edited(tmp_path, lambda t: "rent = 2\n" + t))
    with pytest.raises(CostError, match="without a unit"):
        published.load(edited(tmp_path, lambda t: RENT.sub("[price]\nrent = 2\n", t)))
    busy = "value = 0.8\nlow = 0.6\nhigh = 0.96"
    with pytest.raises(CostError, match=r"'use_of.idle' = .* comes out as .*; change one of"):
        published.load(
            edited(
                tmp_path,
                lambda t: t.replace(busy, busy.replace("0.8", "0.99", 1).replace("0.96", "0.99")),
            )
        )
    final = "value = 0.178\nlow = 0.1\n"
    with pytest.raises(CostError, match=r"'programme.hours' = .* is no number"):
        published.load(edited(tmp_path, lambda t: t.replace(final, "value = 0\nlow = 0\n")))


def test_hostile_files_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.toml"
    for content, words in (
        (b"#" * 1_000_001, "has 1,000,001 bytes"),
        (b"x = " + b"[" * 50_000, "nests too deep"),
        (b".".join([b"a"] * 20_000) + b" = 1", "more than 100 dots in line 1"),
        (b"x = " + b"1" * 9_000, "is not valid TOML"),
        (b"\xff\xfe", "not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(CostError, match=words):
            published.load(path)
    with pytest.raises(CostError, match="is no file"):
        published.load(tmp_path)
    path.write_text('"\\u001b[31m\\u202e" = 1\n')
    with pytest.raises(CostError) as caught:
        published.load(path)
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)


def test_text_answers_in_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert published.show() == 0
    text = capsys.readouterr().out
    flat = " ".join(text.split())
    for words in (
        "$5.576M rents the hours",
        "$2,573M / $5.576M = 461 = 754 (hours) x 0.612 (price)",
        "$3.411M at the fleet's average",
        "6 to 24 times",
        "inside of P10 to P90",
        "$546.2M to $1,244M",
        "$87,072 a day for 226.75 nodes",
        "226.9 together",
        "idle ~",
    ):
        assert re.sub(r"\s", "", words) in re.sub(r"\s", "", flat)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "formula" not in text


def test_why_names_formula_and_source_of_every_figure(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert published.show(why=True) == 0
    text = re.sub(r"\s", "", capsys.readouterr().out)
    for line in published.formulas():
        assert re.sub(r"\s", "", line.key) in text
    for entry in case.inputs.values():
        assert re.sub(r"\s", "", entry.source) in text


def test_json_holds_every_figure_with_its_spread(
    f: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert published.show(json=True) == 0
    data = json.loads(capsys.readouterr().out)
    assert {k: v["value"] for k, v in data["figures"].items()} == f
    rent = data["inputs"]["price.rent"]
    assert (rent["value"], rent["unit"], rent["date"]) == (2.0, "USD/GPU-hour", "2024-12-27")
    assert data["figures"]["headline.cost"]["inputs"] == sorted(published.roots()["headline.cost"])


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    target = tmp_path / "case.html"
    assert published.show(html=target) == 0
    text = target.read_text()
    assert "<script" not in text
    assert not re.search(r"(src|srcset)\s*=|@import|url\(", text)
    assert re.search(r"default-src 'none'", text)
    assert "prefers-color-scheme: dark" in text
    drawings = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(drawings) == 7
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", " ".join(drawings).lower())
    assert list(tmp_path.iterdir()) == [target]


def test_a_strangers_text_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\\u202e\\u001b"
    path = edited(tmp_path, lambda t: t.replace('note = "H800"', f'note = "{bad}"'))
    html = page.render(rings.story(published.load(path), why=True, drawn=True))
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "\u202e" not in html
    assert "\x1b" not in html


def test_a_source_is_a_link_only_to_the_web(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda t: t.replace('source = "chosen"', 'source = "javascript:x"'))
    html = page.render(rings.story(published.load(path), why=True, drawn=True))
    assert "javascript:x" in html
    assert 'href="javascript' not in html
    assert 'href="https://arxiv.org/abs/2412.19437"' in html


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    blank = page.Page(title="", verdict="", about="", numbers=[], sections=[])
    with pytest.raises(CostError, match="cannot be written"):
        page.write_page(blank, tmp_path / "none" / "case.html")


def test_every_input_says_where_it_is_from(case: Case) -> None:
    data = tomllib.loads(SHIPPED.read_text())
    for group in data.values():
        for table in group.values():
            assert set(table) - {"note"} == {
                *("value", "low", "high", "unit", "source", "date", "confidence")
            }
    assumed = {key for key, entry in case.inputs.items() if entry.confidence == "assumption"}
    assert {"use.trading", "use.occupancy", "use.down", "programme.v3_share"} <= assumed


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"),
        (2, "$2.00"),
        (294_000, "$294,000"),
        (5.576e6, "$5.576M"),
        (-1.699e6, "-$1.699M"),
        (2.57256e9, "$2,573M"),
        (9.44e8, "$944M"),
        (9.9994e9, "$9,999M"),
        (9.9996e9, "$10B"),
        (1e11, "$100B"),
        (-2.5e12, "-$2,500B"),
        (999_999.9, "$1M"),
    ],
)
def test_money(amount: float, shown: str) -> None:
    assert page.money(amount) == shown


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from benthic.cost.cases import fleet, published; published.load();"
        "print([m for m in ('torch', 'numpy', 'jinja2') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
