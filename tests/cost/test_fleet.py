"""Machines of one's own: the published table as a special case, break-even, refusals, the page."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.cases import fleet as owning
from benthic.cost.cases import published
from benthic.cost.cases.fleet import EXAMPLE, crf, evaluate, load
from benthic.cost.catalog.load import CostError

POOLS = ("a100", "h20", "h800", "h100")
M = 1e6
LAB = load()


def as_fleet(tmp_path: Path, *, blind: bool = False, extra: str = "") -> owning.Fleet:
    """The published four columns as a fleet file, with its upkeep or from the site's literature."""
    v = published.load().values()
    lines = [f'years = {{ value = {v["fleet.years"]}, unit = "years" }}', extra]
    if blind:
        units = (("hosting", "USD/kW-month"), ("tariff", "USD/kWh"), ("pue", "PUE"))
        lines += ["[sites.literature]", f'load = {{ value = {v["site.load"]}, unit = "share" }}']
        lines += [f'{k} = {{ value = {v[f"site.{k}"]}, unit = "{u}" }}' for k, u in units]
    for pool in POOLS:
        server = v["server.a100" if pool == "a100" else "server.hopper"]
        lines += [
            f"[pools.{pool}]",
            f'count = {{ value = {v[f"{pool}.count"]}, unit = "GPUs" }}',
            f'price = {{ value = {v[f"{pool}.chip"]}, unit = "USD/GPU" }}',
            f'server = {{ value = {server}, unit = "USD/GPU" }}',
            'occupancy = { value = 0.8, unit = "share" }',
            'rent = { value = 2.0, unit = "USD/GPU-hour" }',
        ]
        if blind:
            lines += [
                'site = "literature"',
                f'kw = {{ value = {v[f"{pool}.kw"]}, unit = "kW/GPU" }}',
                f'maintenance = {{ value = {v["site.maintenance"]}, unit = "share/year" }}',
            ]
        else:
            lines.append(f'upkeep = {{ value = {v[f"{pool}.upkeep"]}, unit = "USD/GPU-year" }}')
    path = tmp_path / "semianalysis.toml"
    path.write_text("\n".join(lines))
    return load(path)


def test_the_published_table_is_a_fleet(tmp_path: Path) -> None:
    fleet = as_fleet(tmp_path)
    f, wanted = evaluate(fleet, fleet.values), published.solve(published.load())
    assert f["fleet.capex"] == pytest.approx(wanted["fleet.capex"])
    assert f["fleet.cost"] == pytest.approx(wanted["fleet.cost"])
    assert f["fleet.rate"] == pytest.approx(wanted["fleet.rate"])
    for pool in POOLS:
        assert f[f"{pool}.rate"] == pytest.approx(wanted[f"{pool}.rate"])
        assert f[f"{pool}.cost"] == pytest.approx(wanted[f"{pool}.cost"])
    assert round(f["fleet.capital"] / M) == 407
    assert round(f["h800.break_even"], 3) == 0.695
    assert f["h800.break_even"] == f["h800.break_even_unsold"]


@pytest.mark.parametrize(
    ("extra", "capital", "unsold"),
    [
        ('cost_of_capital = { value = 0.1, unit = "share/year" }', 514, 0),
        ('cost_of_capital = { value = 0.1, unit = "share/year" }\n'
         'residual = { value = 0.25, unit = "share" }', 426, 88),
        ('residual = { value = 0.25, unit = "share" }', 305, 102),
    ],
)  # fmt: skip
def test_capital_and_residual(tmp_path: Path, extra: str, capital: int, unsold: int) -> None:
    fleet = as_fleet(tmp_path, extra=extra)
    f = evaluate(fleet, fleet.values)
    assert round(f["fleet.capital"] / M) == capital
    assert round(f["fleet.unsold"] / M) == unsold
    assert f["fleet.break_even_unsold"] >= f["fleet.break_even"]


def test_the_bottom_up_agrees_with_the_published_cases_own(tmp_path: Path) -> None:
    """Two codes, one formula: the sheet's lines are the reference of this file's."""
    fleet = as_fleet(tmp_path, blind=True)
    f, wanted = evaluate(fleet, fleet.values), published.solve(published.load())
    assert f["fleet.running"] * 4 == pytest.approx(wanted["blind.opex"])
    for pool in POOLS:
        assert f[f"{pool}.running"] * 4 == pytest.approx(wanted[f"blind.{pool}"])


@pytest.mark.parametrize(("busy", "rate"), [(0.96, 1.45), (0.80, 1.74), (0.60, 2.32)])
def test_the_h800_by_occupancy(tmp_path: Path, busy: float, rate: float) -> None:
    fleet = as_fleet(tmp_path)
    f = evaluate(fleet, fleet.values | {"pools.h800.occupancy": busy})
    assert round(f["h800.busy_rate"], 2) == rate
    assert f["h800.idle"] == pytest.approx(f["h800.year"] * (1 - busy))


def test_crf_pays_a_loan_back() -> None:
    assert crf(0.0, 4) == 0.25
    assert crf(1e-7, 4) == pytest.approx(0.25, rel=1e-6)
    debt, payment = 1.0, crf(0.1, 4)
    for _ in range(4):
        debt = debt * 1.1 - payment
    assert debt == pytest.approx(0, abs=1e-12)


@settings(max_examples=40)
@given(
    busy=st.floats(0.05, 1),
    rent=st.floats(0.5, 20),
    rate=st.floats(0, 0.3),
    residual=st.floats(0, 0.9),
)
def test_owning_pays_exactly_above_break_even(
    busy: float, rent: float, rate: float, residual: float
) -> None:
    fleet = LAB
    change = {"pools.h100.occupancy": busy, "pools.h100.rent": rent}
    f = evaluate(fleet, fleet.values | change | {"cost_of_capital": rate, "residual": residual})
    assert (f["fleet.saved"] > 0) == (busy > f["fleet.break_even"])
    at_even = f["fleet.rent"] * f["fleet.hours"] * f["fleet.break_even"]
    assert at_even == pytest.approx(f["fleet.year"])
    assert f["fleet.rate"] == pytest.approx(f["fleet.busy_rate"] * busy)


def test_every_figure_of_the_example_matters() -> None:
    fleet = load()
    before = evaluate(fleet, fleet.values)
    for key, value in fleet.values.items():
        after = evaluate(fleet, fleet.values | {key: value * 1.01})
        assert any(abs(after[k] - before[k]) > 1e-9 * abs(before[k]) for k in before), key
    shared = ("pools.h100.count", "years", "storage", "people.operations.pay")
    for key in shared:
        after = evaluate(fleet, fleet.values | {key: fleet.values[key] * 1.5})
        assert after["fleet.rate"] != before["fleet.rate"], key


def test_power_comes_from_the_catalog_unless_given() -> None:
    fleet = load()
    assert fleet.values["pools.h100.kw"] == pytest.approx(1.275)
    assert fleet.inputs["pools.h100.kw"].source.startswith("catalog")


def test_pools_share_people_and_storage_by_price(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    head, rest = text.split("[pools.h100]")
    pool, people = rest.split("[people.operations]")
    second = pool.replace("value = 32", "value = 8").replace("H100-SXM", "H200-SXM")
    path = tmp_path / "two.toml"
    path.write_text(f"{head}[pools.a]{pool}[pools.b]{second}[people.operations]{people}")
    fleet = load(path)
    f, one = evaluate(fleet, fleet.values), evaluate(load(), load().values)
    assert f["fleet.people"] == one["fleet.people"]
    assert f["a.people"] == pytest.approx(4 * f["b.people"])
    assert f["a.people"] + f["b.people"] == pytest.approx(f["fleet.people"])
    assert f["fleet.year"] == pytest.approx(f["a.year"] + f["b.year"])
    assert f["a.capex"] == pytest.approx(4 * f["b.capex"])
    machines = (one["fleet.capex"] - 60_000) * 40 / 32
    assert f["fleet.capex"] == pytest.approx(machines + 60_000)
    assert f["fleet.rent"] == pytest.approx(2.35)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[sites.colo]", "[site.colo]", "unknown key 'site': did you mean 'sites'"),
        ("tariff =", "tarif =", "unknown key 'tarif': did you mean 'tariff'"),
        ('site = "colo"', 'site = "cola"', "unknown site 'cola': did you mean 'colo'"),
        ('gpu = "H100-SXM"', 'gpu = "H1000-SXM"', "(?i)H1000"),
        ('gpu = "H100-SXM"', "", "neither 'kw' nor 'gpu'"),
        ("{ value = 32,", "{ value = -32,", "'pools.h100.count' value is -32; in GPUs"),
        ("{ value = 32,", "{ value = 0,", "'pools.h100.count' value is 0"),
        ("count = { value = 32, unit = \"GPUs\" }", "count = 32",
         "without a unit; write { value = 32, unit = \"GPUs\" }"),
        ('unit = "USD/kWh"', 'unit = "EUR/kWh"', "is in EUR where the file counts in USD"),
        ('unit = "USD/kWh"', 'unit = "USD/MWh"', "give the figure in 'USD/kWh'"),
        ("value = 1.25, low = 1.1", "value = 0.25, low = 0.1", "in PUE it must be from 1 to 5"),
        ("value = 0.70, low = 0.50", "value = 0.70, low = 0.80", "put them in that order"),
        ('occupancy = { value = 0.70, low = 0.50, high = 0.90, unit = "share", '
         'note = "hours that some job holds" }', "", "has no 'occupancy'; add it, in share"),
        ('site = "colo"', 'site = "colo"\nupkeep = { value = 1, unit = "USD/GPU-year" }',
         "both 'upkeep' and 'site'"),
        ('date = "2026-03"', 'date = "March"', "date 'March'"),
        ("[sites.colo]", "[sites.other]\nhosting = { value = 1, unit = \"USD/kW-month\" }\n"
         "tariff = { value = 1, unit = \"USD/kWh\" }\npue = { value = 1, unit = \"PUE\" }\n"
         "load = { value = 1, unit = \"share\" }\n[sites.colo]", "no pool stands at the site"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_with_a_remedy(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    text = EXAMPLE.read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CostError, match=words) as caught:
        load(path)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_and_endless_fleets_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('years = { value = 4, unit = "years" }')
    with pytest.raises(CostError, match="has no pools"):
        load(path)
    path.write_text("\n".join(f"[pools.p{i}]" for i in range(51)))
    with pytest.raises(CostError, match="has 51 pools"):
        load(path)
    path.write_text("pools = 3")
    with pytest.raises(CostError, match=r"no set of tables; write \[pools.NAME\]"):
        load(path)


def test_text_json_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    target = tmp_path / "fleet.html"
    assert owning.show(EXAMPLE, html=target) == 0
    text = capsys.readouterr().out
    assert "break even at 97% occupancy" in " ".join(text.split())
    assert "70%, planned" in text
    assert max(len(line) for line in text.splitlines() if "Page:" not in line) <= 80
    html = target.read_text()
    assert "<script" not in html
    # Wide tables are cards on a phone, where each cell says its column; four columns fit.
    assert html.count(' cards"') == 2 and html.count('data-column="no resale"') == 1
    drawings = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(drawings) == 2
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert owning.show(json=True) == 0
    data = json.loads(capsys.readouterr().out)
    rate = data["figures"]["fleet.busy_rate"]
    assert rate["p10"] < rate["value"] < rate["p90"]


def test_a_fleet_without_rents_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(re.sub(r"rent = \{.*", "", EXAMPLE.read_text()))
    assert owning.show(path) == 0
    assert "Give every pool a rent" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("text", ["0", "0.0"])
def test_an_occupancy_of_nothing_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    shipped = EXAMPLE.read_text()
    found = re.search(r"occupancy = \{ value = [\d.]+, low = [\d.]+", shipped)
    assert found
    path.write_text(shipped.replace(found[0], f"occupancy = {{ value = 0.5, low = {text}"))
    with pytest.raises(CostError, match=r"occupancy' reaches 0.*above 0, like 0.8"):
        load(path)


def test_a_number_beyond_all_floats_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    count = re.search(r"count = \{ value = \d+", EXAMPLE.read_text())
    assert count
    path.write_text(EXAMPLE.read_text().replace(count[0], "count = { value = 1" + "0" * 400))
    with pytest.raises(CostError, match=r"count' value is 10+\.\.\.; in GPUs it must be from 1"):
        load(path)


def test_why_names_each_input_with_its_address_unbroken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert owning.show(EXAMPLE, why=True) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for key, entry in LAB.inputs.items():
        assert entry.source in lines and any(line.startswith(key) for line in lines), key
    assert owning.show(EXAMPLE) == 0
    assert "channelvisionmag" not in capsys.readouterr().out


def changed(tmp_path: Path, pattern: str, text: str) -> Path:
    """The example with one of its texts replaced."""
    shipped, path = EXAMPLE.read_text(), tmp_path / "mine.toml"
    assert re.search(pattern, shipped)
    path.write_text(re.sub(pattern, text, shipped))
    return path


@pytest.mark.parametrize("high", ["0.95", "1.0"])
def test_a_network_that_leaves_nothing_for_servers_is_refused(tmp_path: Path, high: str) -> None:
    path = changed(tmp_path, r"value = 0\.12, low = 0\.10, high = 0\.19", f"value = {high}")
    with pytest.raises(
        CostError, match=rf"interconnect' reaches {float(high):g} of .* at most 0.9"
    ):
        load(path)
    path = changed(tmp_path, r"value = 0\.12, low = 0\.10, high = 0\.19", "value = 0.9")
    fleet = load(path)
    assert evaluate(fleet, fleet.values)["fleet.capex"] < 1e8


def test_half_a_gpu_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, r"count = \{ value = 32,", "count = { value = 32.5,")
    with pytest.raises(CostError, match=r"pools\.h100\.count' is 32\.5 GPUs; give a whole number"):
        load(path)
