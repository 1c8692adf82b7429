"""The verbs about money as a stranger types them; answers in a fresh process, without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benthic.cli import main


def said(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["benthic", *words])
    with pytest.raises(SystemExit) as left:
        main()
    found = capsys.readouterr()
    return int(left.value.code or 0), found.out, found.err


def test_a_plan_reads_as_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "llama-3.1-8b", "--count", "256", "--tokens", "1T", "--why"]
    code, out, err = said(words, monkeypatch, capsys)
    assert code == 0 and not err
    assert out.startswith("llama-3.1-8b on 1.00T tokens takes 256 H100-SXM:")
    for word in ("P10", "P50", "P90", "GPU-hours", "rent", "MFU", "goodput", "rent.h100-sxm"):
        assert word in out
    wide = [line for line in out.splitlines() if len(line) > 80]
    assert all(line.strip().startswith("https://") for line in wide)  # addresses stay whole
    assert "nan" not in out.split() and "inf" not in out.split()


def test_a_plan_in_numbers_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "--params", "70B", "--layers", "80", "--tokens", "1.4T", "--days", "30"]
    code, out, _ = said([*words, "--json"], monkeypatch, capsys)
    made = json.loads(out)
    assert code == 0 and made["network"]["layers"] == 80
    assert made["solved"] == "gpus" and made["days"]["p50"] <= 30


def test_thrift_reads_as_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["thrift", "deepseek-v2-lite", "--gpu", "h100", "--count", "8"]
    code, out, err = said(words, monkeypatch, capsys)
    assert code == 0 and not err
    for word in ("Training", "Serving", "latent attention", "sparse experts", "benthic run"):
        assert word in out
    assert "FP8 " not in out.split("Training")[1].split("Assumed")[0]
    code, out, _ = said([*words, "--json"], monkeypatch, capsys)
    assert [stage["idea"] for stage in json.loads(out)][1:] == [
        "latent attention",
        "sparse experts",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "deepseek-v4", "--tokens", "1T"],
        ["plan", "deepseek-v3", "--tokens", "1T", "--gpu", "h10"],
        ["plan", "deepseek-v3", "--tokens", "1T", "--budget", "5 EUR"],
        ["thrift", ""],
        ["thrift", "deepseek-v3", "--count", "1"],
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(words, monkeypatch, capsys)
    assert code == 1 and not out
    assert err.startswith("benthic: ") and err.count("\n") == 1


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_who_leaves_is_no_error(more: list[str], tmp_path: Path) -> None:
    """What is written to files is there all the same."""
    page, reading = tmp_path / "bill.html", subprocess.Popen(["true"], stdin=subprocess.PIPE)
    assert reading.stdin is not None and reading.wait() == 0
    words = ["cost", "report", "--html", str(page), *more]
    done = subprocess.run(
        [sys.executable, "-m", "benthic", *words],
        env=os.environ
        | {"BENTHIC_LEDGER": str(tmp_path / "ledger.sqlite"), "PYTHONUNBUFFERED": ""},
        stdout=reading.stdin,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"") and page.exists()


def test_a_wrong_price_is_the_meters_own_refusal(tmp_path: Path) -> None:
    words = ["meter", "--price", "2 EUR", "--", "true"]
    done = subprocess.run(
        [sys.executable, "-m", "benthic", *words],
        env=os.environ | {"BENTHIC_LEDGER": str(tmp_path / "ledger.sqlite")},
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 125 and b"price is '2 EUR': give US dollars" in done.stderr


def test_neither_torch_nor_numpy_is_loaded() -> None:
    script = (
        "import sys; sys.argv = ['benthic', 'plan', 'llama-3.2-1b', '--tokens', '1B']\n"
        "from benthic.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'jinja2', 'transformers'} & sys.modules.keys()\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "takes 1 H100-SXM" in done.stdout
    assert done.stderr.strip() == "[]"
