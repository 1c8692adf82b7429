"""Imports of Weights & Biases, its exports and its folders, and secrets in files of any tool."""

import json
import os
import time
from pathlib import Path

import pytest

from benthic.cost.imports import Found, RecordError, read
from benthic.cost.imports.command import bring
from benthic.cost.ledger.ledger import Entry, Ledger

WANDB = (
    '"Name","ID","State","Notes","User","Tags","Created","Runtime","Sweep","GPU Count","GPU Type",'
    '"name"\n'
)


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def one(found: Found) -> Entry:
    (entry,) = found.entries
    return entry


def test_secrets_of_a_file_are_not_kept(tmp_path: Path) -> None:
    text = (
        "JobID|State|ElapsedRaw|Start|AllocTRES|SubmitLine\n1|COMPLETED|60|2025-03-17|gres/gpu=1|"
        "sbatch --export=ALL,WANDB_API_KEY=s3cr3t j.sh\n"
    )
    entry = one(read(put(tmp_path / "s.txt", text), timezone="UTC"))
    assert entry.command == "sbatch --export=ALL,WANDB_API_KEY=*** j.sh"
    files = folder(tmp_path, "x", {"startedAt": "2025-03-17T10:00:00", "program": "t.py"}, {})
    args = ["--data", "https://u:s3cr3t@h/x", "--max-tokens=512", "hf_abcdefghijklmnopqrst"]
    meta = {"startedAt": "2025-03-17T10:00:00", "program": "t.py", "args": args}
    put(files / "wandb-metadata.json", json.dumps(meta))
    put(files / "wandb-summary.json", '{"_wandb": {"runtime": 60}}')
    kept = one(read(files.parent)).command
    assert "s3cr3t" not in kept and "hf_" not in kept and "--max-tokens=512" in kept
    rows = "run,started,hours,note\na,2025-03-17,1,password: s3cr3t\n"
    assert one(read(put(tmp_path / "t.csv", rows), timezone="UTC")).note.startswith("password: ***")


def test_wandb_without_id_does_not_double(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ',"finished","2025-03-17T10:00:00.000Z","3600"\n'
    bare = put(tmp_path / "b.csv", f'"Name","State","Created","Runtime"\n"base"{line}')
    full = put(tmp_path / "f.csv", f'"Name","ID","State","Created","Runtime"\n"base","abc"{line}')
    assert any("Without the column ID" in told for told in read(bare).assumed)
    assert not any("ID" in told for told in read(full).assumed)
    for place, (first, then) in enumerate(((bare, full), (full, bare))):
        path = tmp_path / f"{place}.sqlite"
        bring(first, ledger=path)
        capsys.readouterr()
        bring(then, ledger=path)
        told = capsys.readouterr().out
        assert "0 rows added, 1 there already" in told and "without ID" in told
    others = put(tmp_path / "o.csv", f'"Name","ID","State","Created","Runtime"\n"base","xyz"{line}')
    path = tmp_path / "full.sqlite"
    bring(full, ledger=path)
    bring(others, ledger=path)
    with Ledger(path) as ledger:
        assert {row.run for row in ledger.query()} == {"wandb:abc", "wandb:xyz"}


def test_one_row_of_wandb_excuses_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = '"finished","2025-03-17T10:00:00.000Z"'
    bare = f'"Name","State","Created","Runtime"\n"run-1",{started},"3600"\n'
    full = '"Name","ID","State","Created","Runtime"\n'
    runs = [f'"run-1","{name}",{started},"{s}"\n' for name, s in (("aa", 3600), ("bb", 7200))]
    for place, order in enumerate((runs, runs[::-1])):
        path = tmp_path / f"{place}.sqlite"
        bring(put(tmp_path / "bare.csv", bare), ledger=path)
        export = put(tmp_path / "full.csv", full + "".join(order))
        capsys.readouterr()
        for added in ("1 row added, 1 there", "0 rows added, 2 there"):
            bring(export, ledger=path)
            told = capsys.readouterr().out
            assert added in told and "1 (run-1) are there by another export" in told
        with Ledger(path) as ledger:
            rows = {row.run: row.seconds for row in ledger.query()}
        assert rows == {"wandb:run-1": 3600, "wandb:bb": 7200}
    # A row that is there of the same file is its own run's, and excuses no other.
    path = tmp_path / "both.sqlite"
    bring(put(tmp_path / "bare.csv", bare), ledger=path)
    both = full + runs[0].replace('"aa"', '""') + runs[0]
    bring(put(tmp_path / "full.csv", both), ledger=path)
    with Ledger(path) as ledger:
        assert {row.run for row in ledger.query()} == {"wandb:run-1", "wandb:aa"}
    # The other way round, with no equal: still one run, and what differs is told.
    path = tmp_path / "other.sqlite"
    bring(put(tmp_path / "full.csv", full + runs[1]), ledger=path)
    capsys.readouterr()
    bring(put(tmp_path / "bare.csv", bare), ledger=path)
    told = capsys.readouterr().out
    assert "0 rows added, 1 there" in told and "run-1: seconds 7200 to 3600" in told


def test_wandb_runs_without_id_and_name_are_known_by_their_figures(tmp_path: Path) -> None:
    header = '"Name","ID","State","Created","Runtime","GPU Count"\n'
    first, second, third = (
        f'"","","finished","2025-03-17T10:00:00.000Z","{seconds}","1"\n'
        for seconds in (10800, 14400, 18000)
    )
    path = put(tmp_path / "w.csv", header + first + second)
    assert [e.seconds for e in read(path).entries] == [10800, 14400]
    ledger = tmp_path / "ledger.sqlite"
    bring(path, ledger=ledger)
    bring(path, ledger=ledger)
    bring(put(tmp_path / "later.csv", header + third), ledger=ledger)
    with Ledger(ledger) as opened:
        rows = list(opened.query())
    assert sorted(row.seconds for row in rows) == [10800, 14400, 18000]
    assert len({row.run for row in rows}) == 3


def test_wandb_flags_do_not_go_before_the_file(tmp_path: Path) -> None:
    row = (
        '"base","abc1","finished","","","ablation","2025-03-17T10:00:00Z","3600","","8","H100",""\n'
    )
    found = read(put(tmp_path / "w.csv", WANDB + row), device="a100", count=1, purpose="final")
    entry = one(found)
    assert (entry.device, entry.count, entry.purpose) == ("H100-SXM", 8, "ablation")
    assert len(found.given()) == 3 and all(
        "used for 0 rows; 1 row says" in g for g in found.given()
    )


def test_bad_rows_of_an_export_are_told_at_once(tmp_path: Path) -> None:
    line = '"finished","","","","2025-03-17T10:00:00Z"'
    rows = f'"a","1",{line},"soon","","","",""\n"b","2",{line},"60","","x","",""\n'
    with pytest.raises(RecordError, match=r"2 records cannot(.|\n)*row 2: (.|\n)*row 3: "):
        read(put(tmp_path / "w.csv", WANDB + rows))


def test_wandb_export(tmp_path: Path) -> None:
    rows = (
        '"base","abc1","finished","-","ada","final","2025-03-17T10:00:00.000Z","3600","","8",'
        '"NVIDIA H100 80GB HBM3","in the config"\n'
        '"try","abc2","crashed","","ada","","2025-03-17T10:00:00.000Z","60","sw1","8","",""\n'
        '"off","abc3","killed","","bob","a, eval","2025-03-17T10:00:00.000Z","1h 1m","","","",""\n'
        '"now","abc4","running","","bob","","2025-03-17T10:00:00.000Z","60","","","",""\n'
    )
    found = read(put(tmp_path / "w.csv", WANDB + rows), price=2)
    assert [(e.name, e.status, e.purpose, e.seconds) for e in found.entries] == [
        ("base", "done", "pretrain", 3600),
        ("try", "failed", "ablation", 60),
        ("off", "interrupted", "evaluation", 3660),
    ]
    assert found.entries[0].device == "H100-SXM" and found.entries[0].count == 8
    assert found.left_out == ["1 left out, they have not ended (now): export again when they have."]
    bad = put(tmp_path / "b.csv", WANDB.replace('"Runtime"', '"Steps"') + rows)
    with pytest.raises(RecordError, match="no column 'Runtime'"):
        read(bad, kind="wandb")


def test_wandb_rows_of_the_api_have_the_key_of_the_export(tmp_path: Path) -> None:
    rows = [
        {
            "id": "abc1",
            "display_name": "base",
            "state": "failed",
            "created_at": "2025-03-17T10:00:00",
            "summary": {"_runtime": 3600.5, "_wandb": {"runtime": 3600}},
            "user": {"username": "ada"},
            "tags": ["rl"],
        }
    ]
    entry = one(read(put(tmp_path / "w.json", json.dumps(rows))))
    assert (entry.seconds, entry.user, entry.purpose, entry.status) == (3600, "ada", "rl", "failed")
    text = WANDB + '"base","abc1","failed","","","","2025-03-17T10:00:00.000Z","3600","","","",""\n'
    assert entry.external == one(read(put(tmp_path / "w.csv", text))).external


def folder(root: Path, run: str, meta: dict[str, object], summary: object) -> Path:
    files = root / "wandb" / f"run-20250317_110000-{run}" / "files"
    put(files / "wandb-metadata.json", json.dumps(meta))
    put(files / "wandb-summary.json", json.dumps(summary))
    return files


def test_wandb_folders(tmp_path: Path) -> None:
    meta = {"startedAt": "2025-03-17T10:00:00.123456", "gpu": "NVIDIA H100 80GB HBM3"}
    meta |= {"gpu_count": 8, "username": "ada", "host": "n1", "program": "t.py"}
    folder(
        tmp_path, "one", meta | {"args": ["--api_key=s3", "--lr", "1"]}, {"_wandb": {"runtime": 60}}
    )
    folder(tmp_path, "two", meta, {"_runtime": 30.5, "_timestamp": 1742205630.5})
    folder(tmp_path, "three", meta, {"loss": 1})
    (tmp_path / "wandb" / "latest-run").symlink_to(tmp_path / "wandb")
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    folder(tmp_path, "four", meta | {"startedAt": started}, {"_runtime": 50})
    found = read(tmp_path / "wandb", timezone="Asia/Tokyo")  # its own times are UTC
    assert [(e.name, e.seconds, e.status) for e in found.entries] == [
        ("one", 60, "done"),
        ("two", 30.5, "interrupted"),
    ]
    first = found.entries[0]
    assert (first.started, first.count, first.host) == (1742205600.123456, 8, "n1")
    assert first.command == "t.py '--api_key=***' --lr 1"
    assert len(found.left_out) == 2 and any("may still run" in line for line in found.left_out)
    copy = tmp_path / "elsewhere"
    os.rename(tmp_path / "wandb" / "run-20250317_110000-one", copy)
    assert len(read(tmp_path / "wandb").entries) == 1


@pytest.mark.parametrize(
    ("meta", "summary", "match"),
    [
        ("[1]", "{}", "is not a JSON object"),
        ("{", "{}", "is not valid JSON"),
        ("[" * 100_000, "{}", "is not valid JSON"),
        ('{"startedAt": "soon"}', '{"_runtime": 1}', "is no time"),
        ('{"startedAt": "2025-03-17T10:00:00"}', '{"_runtime": NaN}', "nan seconds"),
        ('{"startedAt": "2025-03-17T10:00:00"}', '{"_runtime": -5}', "below 0"),
        ('{"startedAt": "2025-03-17T10:00:00"}', '{"_runtime": 1e12}', "ten years"),
    ],
)
def test_bad_wandb_folders(tmp_path: Path, meta: str, summary: str, match: str) -> None:
    files = folder(tmp_path, "x", {}, {})
    put(files / "wandb-metadata.json", meta)
    put(files / "wandb-summary.json", summary)
    with pytest.raises(RecordError, match=match):
        read(tmp_path)
