"""The catalog: what is shipped is sound, what a user adds is checked, names are found."""

import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.catalog import checks, figures
from benthic.cost.catalog import load as catalog
from benthic.cost.catalog.cells import cell
from benthic.cost.catalog.load import Catalog, CostError, load
from benthic.cost.catalog.origins import ends, origin
from benthic.cost.planner.practice import Traits

SHIPPED = load()
ROWS = [row for key in SHIPPED.keys() for row in SHIPPED.observations(key)]  # noqa: SIM118
HEADER = "key,value,low,high,unit,source,date,confidence,note\n"


Read = Callable[[str | bytes], Catalog]


@pytest.fixture
def own(tmp_path: Path) -> Read:
    """A catalog with a user's file of that text."""

    def read(text: str | bytes) -> Catalog:
        path = tmp_path / "own.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load([path])

    return read


# ---- what is shipped


def test_every_shipped_row_is_whole() -> None:
    assert len(ROWS) > 600
    for row in ROWS:
        assert row.low <= row.value <= row.high, row
        assert row.source and row.unit in figures.UNITS, row
        assert row.date and figures.days(row.date)[0].year >= 2016, row
        assert row.confidence in figures.CONFIDENCE[:-1], row
        assert row.key == row.key.lower() and " " not in row.key, row


def test_only_observations_have_several_rows() -> None:
    for key in SHIPPED.keys():  # noqa: SIM118
        found = SHIPPED.observations(key)
        assert len(found) == 1 or key.startswith(catalog.DATED), key
        assert len({figures.UNITS[row.unit].kind for row in found}) == 1, key


def test_every_file_is_a_plain_table() -> None:
    for name in (*catalog.FIGURES, *catalog.TABLES.values()):
        text = (catalog.FOLDER / f"{name}.csv").read_text()
        assert text.isascii() and text.endswith("\n") and "\r" not in text, name
        rows = list(csv.reader(io.StringIO(text)))
        assert {len(row) for row in rows} == {len(rows[0])}, name


def test_every_price_is_of_a_gpu_that_the_table_has() -> None:
    names = {name.lower() for name in SHIPPED.gpus()}
    for key in SHIPPED.keys():  # noqa: SIM118
        first, _, rest = key.partition(".")
        if first in ("rent", "purchase"):
            assert rest.removesuffix(".1y").removesuffix(".3y") in names
        elif rest.rpartition(".")[2] in catalog.GPU_FIELDS:
            assert first in names


@pytest.mark.parametrize("name", SHIPPED.gpus())
def test_every_gpu_is_plausible(name: str) -> None:
    gpu = SHIPPED.gpu(name)
    assert gpu.name == name and gpu == SHIPPED.gpu(name.lower().replace("-", " "))
    assert 1e12 < gpu.peak < 1e16 and gpu.has_bf16 == (gpu.bf16_flops == gpu.fp16_flops)
    assert gpu.fp8_flops is None or gpu.fp8_flops == pytest.approx(2 * gpu.bf16_flops, rel=0.02)
    tdp = SHIPPED.figure(f"{name}.tdp").si
    assert tdp < gpu.server_watts < 4 * tdp
    assert gpu.per_node == 1 or gpu.per_node % 4 == 0
    # A link to other devices is never faster than the memory that feeds it.
    assert (gpu.scale_up or 0) < gpu.bandwidth and (gpu.scale_out or 0) < gpu.bandwidth
    assert figures.days(gpu.release)[0].year >= 2017
    assert SHIPPED.figure(f"{name}.memory").si == gpu.memory
    # A GB that is sold has at most the bytes of a GiB; TPU-v5p is sold with 95 and has 96.
    assert SHIPPED.figure(f"{name}.visible").si == gpu.visible
    assert 0.74 * gpu.memory < gpu.visible < 1.0738 * gpu.memory


def test_units_are_converted_and_bandwidths_go_one_way() -> None:
    h800, h100, a100 = (SHIPPED.gpu(name) for name in ("h800", "h100", "a100"))
    assert h800.bf16_flops == h100.bf16_flops == pytest.approx(132 * 4096 * 1.83e9, rel=1e-4)
    assert h800.scale_up == 200e9 and h100.scale_up == 450e9 and a100.scale_up == 300e9
    assert h800.scale_out == 50e9 and h800.memory == 80e9 and h800.bandwidth == 3.35e12
    assert SHIPPED.gpu("l40s").scale_up is None and SHIPPED.gpu("4090").scale_out is None
    assert SHIPPED.gpu("gb200").per_node == 72 and h800.per_node == 8
    assert SHIPPED.gpu("tpu v5e").scale_up == 200e9
    v100 = SHIPPED.gpu("v100")
    assert not v100.has_bf16 and v100.peak == 125e12 and v100.fp8_flops is None


@pytest.mark.parametrize("name", ["l40s", "l40", "l4", "a10", "t4"])
def test_error_correction_takes_memory_that_hbm_keeps(name: str) -> None:
    card, hbm = SHIPPED.gpu(name), SHIPPED.gpu("a100")
    assert card.visible / card.memory < 0.95 * hbm.visible / hbm.memory
    assert SHIPPED.figure(f"{name}.visible").high * 2**30 < 1.01 * card.memory


def test_names_of_gpus_do_not_collide() -> None:
    seen: dict[str, str] = {}
    for row in SHIPPED.table("gpus"):
        for name in {catalog._plain(text) for text in (row["name"], *row["aliases"].split())}:
            assert seen.setdefault(name, row["name"]) == row["name"], name


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("H800", "H800-SXM"),
        ("h800-sxm", "H800-SXM"),
        ("A100-80GB", "A100-SXM4-80GB"),
        ("a100 40gb", "A100-SXM4-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA A100-PCIE-40GB", "A100-PCIe-40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("Tesla T4", "T4"),
        ("AMD Instinct MI300X", "MI300X"),
        ("NVIDIA GB200", "GB200-NVL72"),
        ("TPUv4", "TPU-v4"),
    ],
)
def test_a_gpu_is_found_by_what_people_and_drivers_call_it(name: str, gpu: str) -> None:
    assert SHIPPED.gpu(name).name == gpu


def test_an_unknown_gpu_gets_the_nearest_name() -> None:
    with pytest.raises(CostError, match=r"no GPU is called 'H80O': did you mean H800-SXM"):
        SHIPPED.gpu("H80O")
    with pytest.raises(CostError, match=r"take A100-SXM4-80GB, .* of the \d+ in benthic"):
        SHIPPED.gpu("")
    with pytest.raises(CostError) as caught:
        SHIPPED.gpu("x" * 100_000)
    assert len(str(caught.value)) < 1000


def test_an_unknown_key_gets_the_nearest_one() -> None:
    with pytest.raises(CostError, match=r"'pux': did you mean pue\?"):
        SHIPPED.figure("pux")
    with pytest.raises(CostError, match=r"did you mean h100-sxm\.memory\?"):
        SHIPPED.figure("h100.memori")
    assert SHIPPED.get("pux") is None and SHIPPED.get("pue") == SHIPPED.figure("pue")
    with pytest.raises(CostError, match="there are runs, run_shapes"):
        SHIPPED.table("run")


# ---- rents


def test_a_rent_is_the_lower_median_of_its_time() -> None:
    newest = SHIPPED.rent("h100")
    assert (newest.value, newest.low, newest.high) == (2.95, 1.99, 5.00)
    assert "37 providers" in newest.note and newest.note.startswith("lower median of 4")
    stale = SHIPPED.rent("h100", "2026-04")  # nothing on demand was seen in the year before
    assert stale.value == 3.95 and "from 2025-03-03 to 2025-06" in stale.note
    spring = SHIPPED.rent("h100", "2025-03-16")  # before the three dearest were seen
    assert spring.value == 2.99 and spring.high == 3.95
    assert SHIPPED.rent("h100", "2025-03").high == 12.29
    assert SHIPPED.rent("h800", "2024-12").value == 2.00
    assert SHIPPED.figure("rent.h100.1y").value == 2.35
    assert SHIPPED.figure("rent.h100.1y", "2025-10").value == 1.70


def test_a_date_without_a_price_is_refused() -> None:
    with pytest.raises(
        CostError, match=r"as early as 2020-12-31: .* from 2024-01-29 to 2026-05-20"
    ):
        SHIPPED.rent("h100", "2020")
    with pytest.raises(CostError, match=r"no rent is known for H20: .* rent\.h20,<price>,USD/h"):
        SHIPPED.rent("H20")


@pytest.mark.parametrize("date", ["20x", "2025-13", "2025-00", "2025-02-30", "2025-1", "0000", " "])
def test_what_is_no_date_is_refused(date: str) -> None:
    with pytest.raises(CostError, match="is no date: write 2025, 2025-03 or 2025-03-17"):
        SHIPPED.rent("h100", date)


@settings(max_examples=50)
@given(
    prices=st.lists(
        st.tuples(st.dates(figures.Day(2020, 1, 1), figures.Day(2030, 1, 1)), st.floats(0.1, 100)),
        min_size=1,
        max_size=9,
    ),
    until=st.dates(figures.Day(2020, 1, 1), figures.Day(2031, 1, 1)),
)
def test_a_summary_never_looks_ahead(
    prices: list[tuple[figures.Day, float]], until: figures.Day
) -> None:
    rows = [
        figures.Figure("rent.x", price, price, price, "USD/h", "s", day.isoformat(), "own")
        for day, price in prices
    ]
    past = [day for day, _ in prices if day <= until]
    if not past:
        with pytest.raises(CostError, match="as early as"):
            figures.summary(rows, until)
        return
    near = [price for day, price in prices if day <= until and max(past) - day <= figures.PERIOD]
    half = [p for day, p in prices if day <= until and max(past) - day <= 2 * figures.PERIOD]
    wide = half if len(near) < 3 else near
    found = figures.summary(rows, until)
    assert (found.low, found.high) == (min(wide), max(wide))
    judged = sorted(near if len(near) == 1 else wide)
    middle = sum(judged) / 2 if len(judged) == 2 else judged[(len(judged) - 1) // 2]
    assert found.value == pytest.approx(middle)


def test_few_prices_have_a_range_and_two_a_middle() -> None:
    eight = SHIPPED.rent("h800")
    assert (eight.low, eight.value, eight.high) == (2.00, 2.07, 3.42)
    assert eight.note.startswith("lower median of 3 from 2024-12 to 2025-06")
    alone = SHIPPED.rent("h800", "2024-12")
    assert (alone.value, alone.high) == (2.00, 3.42) and alone.note.startswith("newest of 2")
    two = SHIPPED.rent("b200", "2026-01")
    assert (two.low, two.value, two.high) == (3.5, 5.75, 6.5)
    assert two.note.startswith("middle of 2 from 2026 to 2026-01") and " and http" in two.source


def test_each_column_is_read_by_name_or_said_to_be_for_readers() -> None:
    """In double quotes somewhere in the code, or in back quotes in docs/cost.md."""
    root = Path(__file__).parents[2]
    code = "".join(
        path.read_text()
        for room in ("benthic", "benchmarks")
        for path in (root / room).rglob("*.py")
    )
    told = (root / "docs" / "cost.md").read_text()
    shipped = sorted(catalog.FOLDER.glob("*.csv"))
    assert len(shipped) >= 14
    for path in shipped:
        assert f'"{path.stem}"' in code or path.name in code, path.name
        for name in path.read_text().partition("\n")[0].split(","):
            traits = path.stem == "practice_runs" and name in Traits.__dataclass_fields__
            assert f'"{name}"' in code or f"`{name}`" in told or traits, f"{path.name}: {name}"


# ---- identities of the sources


def test_a_server_is_its_gpu_and_an_overhead() -> None:
    for gpu, each, over in (
        ("a100", 23716, "a100"),
        ("h20", 24228, "hopper"),
        ("h800", 31728, "hopper"),
        ("h100", 34728, "hopper"),
    ):
        server = SHIPPED.figure(f"{gpu}.server_capex").value
        assert server == each
        price, overhead = f"{gpu}.gpu_price", f"server_overhead.{over}"
        assert server == SHIPPED.figure(price).value + SHIPPED.figure(overhead).value


def test_rates_of_failure_and_development_close() -> None:
    value = {row.key: row.value for row in ROWS}
    assert value["gpu_mtbf.llama-3"] == round(54 * 24 * 16_384 / 419)
    assert value["job_mtbf.llama-3"] == pytest.approx(54 * 24 / 419, abs=5e-4)
    assert value["gpu_mtbf.rsc-1"] == round(1000 * 24 * 8 / 6.5)
    assert value["rd_multiplier"] == round(1 / value["final_share"], 2)
    for trace in ("acme-seren", "acme-kalos", "helios", "philly"):
        parts = [value[f"gpu_time.{trace}.{end}"] for end in ("completed", "cancelled", "failed")]
        assert sum(parts) == pytest.approx(1, abs=0.0011), trace


# ---- runs that cannot be true


def test_no_shipped_run_is_impossible() -> None:
    for row in SHIPPED.table("runs"):
        assert checks.impossible(row, SHIPPED) == [], row["model"]
    assert sum(bool(row["flag"]) for row in SHIPPED.table("runs")) > 10


def _run(model: str, **changes: str) -> dict[str, str]:
    row = next(row for row in SHIPPED.table("runs") if row["model"] == model)
    return row | changes


def test_hours_per_trillion_tokens_are_recognised() -> None:
    (reason,) = checks.impossible(_run("DeepSeek-V2", gpu_hours="172800"), SHIPPED)
    assert reason.startswith("its hours imply 1.69 of the peak of H800-SXM, above 0.75")
    assert "are the hours per trillion tokens (times 8.1 they imply 0.21)?" in reason


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        ("DeepSeek-V3", {"active_params_b": "671"}, "the parameters all of a mixture of experts?"),
        ("Llama 3 8B", {"gpu_hours": "13000000"}, "below 0.03: check tokens"),
        ("Granite 3.0 2B", {"gpu_hours": "250"}, "are they those of one GPU of 768"),
        ("OPT-175B", {"gpu_hours": "450000"}, "the row itself states 0.47"),
        ("DeepSeek-V3", {"total_params_b": "20"}, "37.55B active parameters are more than the 20B"),
        ("Llama 2 7B", {"n_gpu": "4"}, "4 GPUs would have run for 5.3 years"),
        ("GLM-130B", {"gpu_exact": "H100-SXM"}, "of 2022-08, before H100-SXM was there in 2022-09"),
    ],
)
def test_slips_are_named(model: str, changes: dict[str, str], reason: str) -> None:
    found = checks.impossible(_run(model, **changes), SHIPPED)
    assert reason in " ".join(found), found


def test_runs_without_tokens_are_not_judged_and_broken_ones_refused() -> None:
    for name in ("active_params_b", "tokens_t", "gpu_hours"):
        assert checks.implied_mfu(_run("DeepSeek-V3", **{name: ""}), SHIPPED) is None
    assert checks.implied_mfu(_run("DeepSeek-V3"), SHIPPED) == pytest.approx(0.3514, abs=1e-4)
    for text in ("-1", "nan", "many", "0", "inf"):
        with pytest.raises(CostError, match=r"'DeepSeek-V3' has tokens_t = .*: give a positive"):
            checks.impossible(_run("DeepSeek-V3", tokens_t=text), SHIPPED)
    with pytest.raises(CostError, match="no GPU is called 'Z9'"):
        checks.impossible(_run("DeepSeek-V3", gpu_exact="Z9"), SHIPPED)


# ---- a user's own file


def test_a_file_overrides_by_key_in_any_fitting_unit(own: Read) -> None:
    mine = own(
        "key,value,unit,note,low,high\n"
        "PUE,1.3,x\n"
        "rent.H100,2.1,USD/h,a contract\n"
        "h800.server_watts,1.4,kW,,1.3,1.5\n"
        "h20.scale_up,800,Gbit/s\n"
        "rent.h20,1.1,USD/h\n"
        "residual_value,20,%\n"
        "a800.fp8_flops,700,TFLOP/s\n"
    )
    assert mine.figure("pue").value == 1.3 == mine.figure("pue").low
    assert mine.figure("pue").confidence == "own" and mine.figure("pue").source.endswith("line 2")
    assert mine.rent("h100").value == mine.rent("h100", "2019").value == 2.1
    assert mine.rent("h100").note == "a contract" and mine.rent("h20").value == 1.1
    watts = mine.figure("h800-sxm.server_watts")
    assert (watts.value, watts.low, watts.high, watts.unit) == (1400, 1300, 1500, "W")
    assert mine.gpu("h800").server_watts == 1400 and mine.gpu("h20").scale_up == 100e9
    assert mine.figure("residual_value").value == pytest.approx(0.2)
    assert mine.gpu("a800").fp8_flops == 700e12 and SHIPPED.gpu("a800").fp8_flops is None
    assert mine.figure("electricity_price") == SHIPPED.figure("electricity_price")


NEW = {
    **{"bf16_flops": "59.5,TFLOP/s", "memory": "10,GB", "bandwidth": "760,GB/s"},
    **{"server_watts": "450,W", "per_node": "2,GPU"},
}


def lines(fields: Mapping[str, str], name: str = "rtx-3080") -> str:
    return "".join(f"{name}.{field},{rest}\n" for field, rest in fields.items())


def test_a_gpu_of_ones_own(own: Read) -> None:
    price = "rent.RTX 3080,0.2,USD/h\n"  # before what it is of
    mine = own(f"key,value,unit\n{price}{lines(NEW, 'RTX-3080')}")
    gpu = mine.gpu("rtx3080")
    assert (gpu.name, gpu.vendor, gpu.bf16_flops, gpu.memory) == ("rtx-3080", "", 59.5e12, 10e9)
    assert gpu.visible == 10e9 and gpu.fp8_flops is gpu.scale_up is None and gpu.per_node == 2
    assert mine.rent("NVIDIA GeForce RTX 3080").value == 0.2 and "rtx-3080" not in mine.gpus()
    more = own("key,value,unit\n" + lines(NEW | {"visible": "9.6,GiB", "fp8_flops": "119,TFLOP/s"}))
    assert more.gpu("rtx-3080").visible == 9.6 * 2**30 and more.gpu("rtx-3080").fp8_flops == 119e12


def test_own_memory_is_what_a_program_has(own: Read) -> None:
    assert own("key,value,unit\nh100.memory,94,GB\n").gpu("h100").visible == 94e9
    both = own("key,value,unit\nh100.memory,94,GB\nh100.visible,93,GiB\n").gpu("h100")
    assert both.visible == 93 * 2**30


@pytest.mark.parametrize("field", NEW)
def test_what_a_gpu_of_ones_own_lacks_is_named(own: Read, field: str) -> None:
    rest = {name: value for name, value in NEW.items() if name != field}
    with pytest.raises(
        CostError, match=rf"line 2: no GPU .*'rtx-3080'.* needs rtx-3080.{field} too: did you mean"
    ):
        own("key,value,unit\n" + lines(rest))


def test_own_prices_may_have_dates_and_the_later_file_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(
        "key,value,unit,date\nrent.h100,3,USD/h,2025-01\nrent.h100,2,USD/h,2026-01\npue,1.2,x,\n"
    )
    second.write_text("\ufeffkey,value,unit\n\n , ,\npue,1.4,x\n", encoding="utf-8")
    mine = load([first, second])
    assert mine.rent("h100").value == 2 and mine.rent("h100", "2025-06").value == 3
    with pytest.raises(CostError, match="from 2025-01 to 2026-01"):
        mine.rent("h100", "2024")
    assert mine.figure("pue").value == 1.4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column key in line 1"),
        ("key;value;unit\npue;1.2;x\n", "lacks the column key .* separated by commas"),
        ("key,value\npue,1.2\n", "lacks the column unit"),
        ("key,value,unit,currency\npue,1,x,EUR\n", "column 'currency' .*which means nothing"),
        ("key,value,unit,value\n", "column 'value' in line 1, twice"),
        ("key,value,unit\npux,1.2,x\n", "line 2: no figure is called 'pux': did you mean pue"),
        ("key,value,unit\nh1000.memory,80,GB\n", "needs h1000.bf16_flops, .*did you mean H100"),
        ("key,value,unit\n,80,GB\n", "line 2 has no key"),
        ("key,value,unit\n.memory,80,GB\n", "no figure is called '.memory'"),
        ("key,value,unit\nqqqq.tdp,80,W\n", "qqqq.per_node too: give them"),
        ("key,value,unit\nrent.h100.5y,2,USD/h\n", "line 2: no figure is called 'rent.h100.5y'"),
        ("key,value,unit\n,1.2,x\n", "line 2 has no key"),
        ("key,value,unit\npue,abc,x\n", "line 2: pue is 'abc', no number"),
        ("key,value,unit\npue,nan,x\n", "pue is 'nan', no number"),
        ("key,value,unit\npue,1e999,x\n", "pue is inf x, not from 1 to 100"),
        ("key,value,unit\npue,,x\n", "pue is '', no number"),
        ("key,value,unit\npue,1_5,x\n", "pue is '1_5', no number"),
        ("key,value,unit\npue,0.8,x\n", "pue is 0.8 x, not from 1 to 100: check the value"),
        ("key,value,unit\npue,125,x\n", "pue is 125 x, not from 1 to 100"),
        ("key,value,unit\nrent.h100,-2,USD/h\n", "rent.h100-sxm is -2 USD/h|rent.h100 is -2 USD/h"),
        ('key,value,unit\nrent.h100,"2,5",USD/h\n', "is '2,5', no number"),
        ("key,value,unit\nrent.h100,2,EUR/h\n", "is in 'EUR/h', the catalog in USD: convert it"),
        ("key,value,unit\nrent.h100,2,\u20ac/h\n", "the catalog in USD"),
        ("key,value,unit\nrent.h100,2,\n", "without a unit: give it in USD/h"),
        ("key,value,unit\nrent.h100,2,USD\n", "is in 'USD': give it in USD/h"),
        ("key,value,unit\nh100.memory,80,TB/s\n", "is in 'TB/s': give it in GB or GiB or TB"),
        ("key,value,unit\nelectricity_price,8,USD/kWh\n", "is 8 USD/kWh, not from 0 to 5"),
        ("key,value,unit\nh100.per_node,7.5,GPU\n", "is 7.5: give a whole number"),
        ("key,value,unit,low,high\npue,1.2,x,1.3,1.4\n", "outside its own range of 1.3 to 1.4"),
        ("key,value,unit,date\npue,1.2,x,yesterday\n", "line 2: 'yesterday' is no date"),
        ("key,value,unit,confidence\npue,1.2,x,sure\n", "confidence 'sure' is not one of high"),
        ("key,value,unit\npue,1.2,x\nPUE,1.3,x\n", "line 3: pue stands in line 2 too: keep one"),
        ("key,value,unit\npue,1.2,x,1,2\n", "line 2 has 5 cells for 3 columns"),
        ('key,value,unit\npue,"1.2,x\n', "cannot be read as CSV .*close every quote"),
        ("key,value,unit\npue,1.2,x\x00\n", "it is no text"),
        ("key,value,unit,note\npue,1.2,x,\x1b[2Jgone\n", "it is no text"),
        (b"key,value,unit\npue,1.2,\xff\n", "it is no UTF-8 text: save it as CSV in UTF-8"),
        ("key,value,unit,note\npue,1.2,x," + "y" * 200_000, "field larger than field limit"),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(
    own: Read, text: str | bytes, message: str
) -> None:
    with pytest.raises(CostError, match=message) as caught:
        own(text)
    assert "own.csv" in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_file_that_is_none_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CostError, match=r"gone\.csv is no file: give the path"):
        load([tmp_path / "gone.csv"])
    with pytest.raises(CostError, match="is no file"):
        load([tmp_path])
    huge = tmp_path / "huge.csv"
    huge.touch()
    os.truncate(huge, 10**9)
    with pytest.raises(CostError, match=r"has 1,000\.0 MB, a file of figures at most 1: keep"):
        load([huge])


@settings(max_examples=60)
@given(
    text=st.text(max_size=60),
    value=st.just("1.3") | st.text(max_size=12),
    unit=st.just("x") | st.text(max_size=8),
)
def test_whatever_a_file_holds_it_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, value: str, unit: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "own.csv"
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["key", "value", "unit", "note"], ["pue", value, unit, text]])
    for body in (out.getvalue(), text):
        path.write_bytes(body.encode("utf-8", "surrogatepass"))
        with suppress(CostError):
            line = figures.explain(load([path]).figure("pue"))
            assert line.startswith("pue = 1") and line.isprintable()


# ---- where a figure is from


def test_a_figure_and_its_sources_apart() -> None:
    words, places = origin(SHIPPED.figure("gpu_mtbf"))
    assert words.startswith("gpu_mtbf = 50,677 h (29,538 to 50,677), 2024-10-29, confidence medium")
    assert places == ("https://arxiv.org/abs/2407.21783", "https://arxiv.org/abs/2410.21680")
    _, places = origin(SHIPPED.figure("h100.memory"))
    address = "https://github.com/epoch-research/training-cost-trends"
    assert places == (address, "(data/Chip dataset, Hardware prices)")
    line = figures.explain(SHIPPED.figure("pue"))
    assert line.startswith("pue = 1.25 x (1.1 to 1.5): https://arxiv.org/abs/2405.21015")
    assert "2024-05, confidence high" in line


def test_the_ends_of_a_price_are_somebodys() -> None:
    rows = SHIPPED.observations("rent.h100-sxm")
    found = SHIPPED.rent("h100")
    named = dict(ends(found, rows))
    assert named["low"].low == found.low and named["high"].high == found.high
    assert {"mercatus" in row.source for row in named.values()} == {True}
    until = figures.days("2024")[1]
    early = SHIPPED.rent("h100", "2024")
    assert all(row.date < "2025" for _, row in ends(early, rows, until))
    assert ends(SHIPPED.figure("pue"), [SHIPPED.figure("pue")]) == []


# ---- cells


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "' =1"),
        ("\r=1", "' =1"),
        ("\x00=1", "' =1"),
        ("\tplain", " plain"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("a\nb\x1b[2J", "a b [2J"),
        ("DeepSeek-V3", "DeepSeek-V3"),
        ("-1.5", "-1.5"),
        ("-1.5e3", "-1.5e3"),
        (-1.5, "-1.5"),
        (-3, "-3"),
        (True, "True"),
        (None, ""),
        ("", ""),
    ],
)
def test_a_cell_never_starts_a_formula(value: object, text: str) -> None:
    assert cell(value) == text


@given(st.text(max_size=20))
def test_no_text_becomes_a_formula(text: str) -> None:
    made = cell(text)
    first = made.strip()[:1]
    assert first not in set("=@") and (first not in set("+-") or figures._NUMBER.fullmatch(made))
    assert not any(ord(sign) < 32 for sign in made)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_cell_holds_no_infinity(value: float) -> None:
    with pytest.raises(CostError, match="a cell cannot hold"):
        cell(value)


# ---- cost of the catalog itself


def test_it_loads_at_once_and_without_torch_or_numpy() -> None:
    code = (
        "import sys, time\n"
        "from benthic.cost.catalog import cells, checks, load\n"
        "begun = time.perf_counter()\n"
        "found = load.load(); found.gpu('h800'); found.rent('h100')\n"
        "print(time.perf_counter() - begun, 'torch' in sys.modules, 'numpy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch, numpy = done.stdout.split()
    assert (torch, numpy) == ("False", "False")
    assert float(seconds) < 0.5  # about 0.01 on an idle core
