"""A figure of the user's own either moves the answer, or is named as one that does not."""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from benthic.cli import main
from benthic.cost.catalog.load import load

CATALOG = load()
PLAN = ("plan", "qwen3-0.6b", "--gpu", "h100", "--count", "16", "--tokens", "10B")
BOTH = ("--precision", "fp8", "--layout", "tp8 dp2")  # so that every rate and link counts
FORMS: tuple[tuple[str, ...], ...] = ((), ("--json",))
KEYS = [
    key
    for key in CATALOG.keys()  # noqa: SIM118
    if key.startswith(("h100-sxm.", "rent.h100-sxm", "purchase.h100-sxm"))
    or (not key.startswith(("rent.", "purchase.")) and "." not in key)
]


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    with pytest.MonkeyPatch.context() as patch, suppress(SystemExit):
        patch.setattr("sys.argv", ["benthic", *words])
        main()
    return tuple(capsys.readouterr())


def test_every_key_moves_the_plan_or_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page without --why, whose sources would show a figure that moves nothing, and the data,
    whose figures are not rounded."""
    base = [answer(capsys, *PLAN, *BOTH, *form) for form in FORMS]
    assert [err for _, err in base] == ["", ""]
    wrong = []
    for key in KEYS:
        row = CATALOG.figure(key)
        value = (
            row.value * 1.5 if key.endswith("per_node") or row.value * 1.5 < 1 else row.value / 2
        )
        value = max(1.0, value) if row.unit == "x" else value
        file = tmp_path / "own.csv"
        file.write_text(f"key,value,unit\n{key},{value:g},{row.unit}\n")
        found = [answer(capsys, *PLAN, *BOTH, *form, "--prices", str(file)) for form in FORMS]
        still = [now[0] == before[0] for now, before in zip(found, base, strict=True)]
        named = f"sets {key}, which this answer does not read" in found[0][1]
        if all(still) != named:
            wrong.append((key, value, found[0][1]))
    assert wrong == []
    assert len(KEYS) > 40


@pytest.mark.parametrize("verb", [PLAN, ("thrift", "deepseek-v2-lite", "--count", "8")])
def test_what_is_not_read_is_one_sentence(
    verb: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.csv"
    file.write_text("key,value,unit\ncolocation,99,USD/kW-month\npue,1.4,x\na100.memory,40,GB\n")
    out, err = answer(capsys, *verb, "--json", "--prices", str(file))
    assert json.loads(out)
    assert err.count("\n") == 1 and "a100-sxm4-80gb.memory" in err
    assert err.startswith("benthic: --prices sets ")
    assert "colocation" in err
    assert ("pue" in err) == (verb[0] == "thrift")


@pytest.mark.parametrize("form", [(), ("--why",)])
def test_a_rent_beside_rent_is_named_whatever_is_printed(
    form: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.csv"
    file.write_text("key,value,unit\nrent.h100-sxm,9,USD/h\n")
    _, err = answer(capsys, *PLAN, "--rent", "2", "--prices", str(file), *form)
    assert "sets rent.h100-sxm, which this answer does not read" in err
