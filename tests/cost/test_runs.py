"""`benthic cost runs`: rows that cannot be true are flagged, the catalog's and a user's own."""

import json
from pathlib import Path

import pytest

from benthic.cost.cases.runs import read, show
from benthic.cost.catalog.load import CostError

HEADER = "model,active_params_b,total_params_b,tokens_t,gpu,gpu_hours\n"


def test_the_catalogs_rows_are_shown_with_what_was_corrected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert show(None, as_json=False) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "None of 32 rows contradicts itself." in text
    assert "DeepSeek-V3 2024-12 H800-SXM 2,664,000 35%" in text
    assert "DeepSeek-V2 2024-05 H800-SXM 1,399,680 21% corrected" in text
    assert "which would be 1.69 of the peak" in text


def test_a_database_with_hours_per_trillion_tokens_is_flagged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs.csv"
    rows = ("DeepSeek-V2,21.4,236,8.1,H800,172800", "odd,7,7,1,Z9,3", "minus,7,7,1,H100,-3")
    file.write_text(HEADER + "\n".join((*rows, "fine,7,7,1,H100,90000")) + "\n")
    show(file, as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("1 of 4 rows cannot be true as it stands. 2 could not be read.")
    assert "DeepSeek-V2 H800 172,800 169% cannot be" in text and "odd Z9 3 not read" in text
    assert "are the hours per trillion tokens (times 8.1 they imply 0.21)?" in text
    show(file, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [bool(row["doubts"]) for row in found] == [True, False, False, False]
    assert "no GPU is called 'Z9'" in found[1]["unread"]
    assert "give a positive number" in found[2]["unread"]
    assert found[3]["implied_mfu"] == pytest.approx(0.131, abs=0.001)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model,gpu\nx,H100\n", "lacks the column active_params_b"),
        (HEADER, "has no row below its header"),
        (HEADER + 'x,1,1,1,"H100,2\n', "close every quote"),
    ],
)
def test_a_file_that_is_no_table_of_runs(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(CostError, match=says):
        read(tmp_path / "runs.csv")


def test_no_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CostError, match="is no file: give the path of a CSV file"):
        read(tmp_path / "none.csv")
