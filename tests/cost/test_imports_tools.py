"""Imports of Slurm's sacct and of Weights & Biases, its exports and its folders."""

import json
import os
import time
from pathlib import Path

import pytest

from benthic.cost.imports import Found, RecordError, read
from benthic.cost.imports.command import bring
from benthic.cost.ledger.ledger import Entry, Ledger

SACCT = (
    "JobID|JobName|User|Account|Partition|State|ElapsedRaw|Start|End|AllocTRES|AllocCPUS|"
    "ConsumedEnergyRaw|ExitCode\n"
)
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


def slurm(tmp_path: Path, *rows: str) -> Path:
    return put(tmp_path / "jobs.txt", SACCT + "\n".join(rows) + "\n")


def job(
    name: str = "7", *, state: str = "COMPLETED", seconds: object = 3600, tres: str = ""
) -> str:
    tres = tres or "billing=8,cpu=96,gres/gpu:h100=8,gres/gpu=8,mem=1T,node=1"
    return (
        f"{name}|train|ada|lab|gpu|{state}|{seconds}|2025-03-17T10:00:00|2025-03-17T11:00:00|"
        f"{tres}|96||0:0"
    )


def test_slurm_bills_allocations_once(tmp_path: Path) -> None:
    path = slurm(
        tmp_path,
        job("7"),
        job("7.batch"),
        job("7.extern"),
        job("7.0"),
        job("8_1", state="CANCELLED by 1000", seconds=1800),
        job("8_2", state="OUT_OF_MEMORY", tres="cpu=4,gres/gpu:a100=2,node=1"),
        job("9", tres="cpu=4,gres/gpu:a100=2,gres/gpu:v100=1,gres/gpu=4"),
        job("10", tres="cpu=16,mem=64G,node=1"),
        job("11", state="RUNNING"),
        job("12", state="PENDING", seconds=0),
        job("13.0"),
    )
    found = read(path, timezone="UTC")
    assert [(e.run, e.device, e.count, e.status) for e in found.entries] == [
        ("sacct:7", "H100-SXM", 8, "done"),
        ("sacct:8_1", "H100-SXM", 8, "interrupted"),
        ("sacct:8_2", "A100-SXM4-80GB", 2, "failed"),
        ("sacct:9", "A100-SXM4-80GB", 2, "done"),
        ("sacct:9", "V100-SXM2-32GB", 1, "done"),
        ("sacct:9", "unknown", 1, "done"),
        ("sacct:10", "CPU", 1, "done"),
    ]
    assert [e.seconds for e in found.entries[:2]] == [3600, 1800]
    assert not any("state" in e.note for e in found.entries)
    assert found.entries[0].user == "ada" and found.entries[0].project == "lab"
    assert found.entries[-1].price_per_hour == 0 and "held no GPU" in found.entries[-1].note
    assert any(line.startswith("2 left out, they have not ended") for line in found.left_out)
    assert any("only their steps" in line and "13" in line for line in found.left_out)
    assert len({e.external for e in found.entries}) == len(found.entries)


def test_slurm_price_is_of_gpus(tmp_path: Path) -> None:
    path = slurm(tmp_path, job("1"), job("2", tres="cpu=16,node=1"))
    assert [e.price_per_hour for e in read(path, price=2).entries] == [2, 0]
    assert [e.count for e in read(path, count=4).entries] == [4, 4]
    assert [e.price_per_hour for e in read(path, price=0.04, device="core").entries] == [0.04] * 2


def test_slurm_does_not_quote(tmp_path: Path) -> None:
    row = job("7").replace("|train|", '|"a|')
    assert one(read(slurm(tmp_path, row))).name == '"a'
    odd = one(read(slurm(tmp_path, job("7", state="LOST_IN_SPACE"))))
    assert odd.status == "interrupted" and "Slurm's state LOST_IN_SPACE" in odd.note


@pytest.mark.parametrize("gpu", ["a100_1g.5gb", "1g.10gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"])
def test_a_slice_of_a_gpu_has_not_the_price_of_the_whole(tmp_path: Path, gpu: str) -> None:
    entry = one(read(slurm(tmp_path, job("1", tres=f"cpu=1,gres/gpu:{gpu}=1"))))
    assert (entry.device, entry.price_per_hour) == (gpu, 0)


def test_a_requeued_job_is_each_of_its_starts(tmp_path: Path) -> None:
    again = job("7", state="REQUEUED").replace("T10:", "T08:").replace("T11:", "T09:")
    found = read(slurm(tmp_path, again, job("7"), job("7")), timezone="UTC")
    assert [e.status for e in found.entries] == ["interrupted", "done"]
    assert any("holds them twice" in line for line in found.left_out)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("JobID|State|Start\n1|COMPLETED|2025-03-17T10:00:00\n", "no column ElapsedRaw"),
        (
            "JobID|State|Start|ElapsedRaw\n1|COMPLETED|2025-03-17T10:00:00|5\n",
            "no column AllocTRES",
        ),
        ("JobID           JobName  Partition\n------- ----- ----\n", "--parsable2"),
        (SACCT + job(seconds="soon"), "is no duration"),
        (SACCT + job("").lstrip(), "has no JobID"),
    ],
)
def test_bad_sacct_is_one_sentence(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(RecordError, match=match):
        read(put(tmp_path / "s.txt", text))


def test_a_pipe_in_a_text_leaves_out_its_row_alone(tmp_path: Path) -> None:
    shifted = job("8").replace("|train|", "|a | b|")
    found = read(slurm(tmp_path, job("7"), shifted, job("9")), timezone="UTC")
    assert [e.run for e in found.entries] == ["sacct:7", "sacct:9"]
    (told,) = found.left_out
    assert "(row 3)" in told and "holds '|'" in told and "--format without JobName" in told


def test_slurm_rows_have_one_key_whatever_the_columns(tmp_path: Path) -> None:
    tres = "gres/gpu:a100=2,gres/gpu:v100=1"
    keys = []
    for header, row in (
        ("JobID|JobIDRaw|Cluster|AllocTRES", f"8_4|12|c1|{tres}"),
        ("JobIDRaw|JobID|AllocTRES", f"12|8_4|{tres}"),
        ("JobID|NodeList", "8_4|n1"),
    ):
        text = f"{header}|State|ElapsedRaw|Start\n{row}|COMPLETED|60|2025-03-17T10:00:00\n"
        found = read(put(tmp_path / "s.txt", text), count=2, timezone="UTC")
        keys.append([e.external for e in found.entries])
        assert found.entries[0].run == "sacct:8_4"
    assert len(keys[0]) == 2 and keys[0] == keys[1] and keys[2] == keys[0][:1]
    text = "JobIDRaw|AllocTRES|State|ElapsedRaw|Start\n12|gres/gpu=1|COMPLETED|60|2025-03-17\n"
    found = read(put(tmp_path / "s.txt", text), timezone="UTC")
    assert any("JobIDRaw" in line for line in found.assumed)


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
