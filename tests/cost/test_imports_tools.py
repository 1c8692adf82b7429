"""Imports of Slurm's sacct: allocations, energy, requeued jobs."""

from pathlib import Path

import pytest

from benthic.cost.bill.bill import draw_up
from benthic.cost.imports import Found, RecordError, read
from benthic.cost.imports.command import bring
from benthic.cost.ledger.ledger import Entry, Ledger

SACCT = (
    "JobID|JobName|User|Account|Partition|State|ElapsedRaw|Start|End|AllocTRES|AllocCPUS|"
    "ConsumedEnergyRaw|ExitCode\n"
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


def test_slurm_jobs_keep_what_they_say(tmp_path: Path) -> None:
    path = slurm(
        tmp_path,
        job("1", tres="cpu=4,gres/gpu:a100=4,gres/gpu=4,node=1"),
        job("2", tres="cpu=16,node=1"),
        job("3", tres="cpu=16,gres/gpu=2,node=1"),
    )
    found = read(path, price=2, device="h100", count=8, project="moe")
    assert [(e.device, e.count, e.price_per_hour, e.project) for e in found.entries] == [
        ("A100-SXM4-80GB", 4, 2, "moe"),
        ("CPU", 1, 0, "moe"),
        ("H100-SXM", 2, 2, "moe"),
    ]
    assert found.given()[0] == (
        "--device h100 was used for 1 row; 1 row says otherwise, which stands; 1 row held no GPU."
    )
    assert found.assumed[0].startswith("1 row held no GPU and counts 0 dollars")
    assert {e.project for e in read(path).entries} == {"lab"}


@pytest.mark.parametrize(
    ("own", "steps", "joules"),
    [
        ("5000", {"batch": "9", "extern": "8"}, 5000),
        ("", {"batch": "4580", "extern": "4580", "0": "4570"}, 4580),
        ("0", {"batch": "900", "extern": "4000", "0": "1500", "1": "1600"}, 4000),
        ("", {"batch": "900", "extern": "", "0": "1500", "1": "1600"}, 3100),
        ("", {"batch": "4000", "extern": "0", "0": "1500", "1": "1600"}, 4000),
        ("18446744073709551614", {"batch": "700", "0": "18446744073709551614"}, 700),
        ("", {"batch": ""}, 0),
    ],
)
def test_energy_of_a_job_without_is_that_of_its_steps(
    own: str, steps: dict[str, str], joules: float, tmp_path: Path
) -> None:
    rows = [job("7").replace("|96||", f"|96|{own}|")]
    rows += [job(f"7.{name}").replace("|96||", f"|96|{text}|") for name, text in steps.items()]
    for order in (rows, rows[::-1]):
        entry = one(read(slurm(tmp_path, *order), timezone="UTC"))
        assert entry.joules == joules
        of_steps = " of its steps" if own != "5000" else ""
        source = f"Slurm: ConsumedEnergyRaw{of_steps}, of whole nodes" if joules else "not known"
        assert entry.energy_source == source


def test_steps_belong_to_the_start_of_their_job(tmp_path: Path) -> None:
    rows = [
        job("7", state="REQUEUED").replace("T10:", "T08:").replace("T11:", "T09:"),
        job("7"),
        job("7.batch").replace("T10:00:00", "T08:00:01").replace("|96||", "|96|100|"),
        job("7.batch").replace("T10:00:00", "T10:00:01").replace("|96||", "|96|300|"),
    ]
    for order in (rows, rows[::-1]):
        found = read(slurm(tmp_path, *order), timezone="UTC")
        assert {e.status: e.joules for e in found.entries} == {"interrupted": 100, "done": 300}


def test_slurm_does_not_quote(tmp_path: Path) -> None:
    row = job("7").replace("|train|", '|"a|')
    assert one(read(slurm(tmp_path, row))).name == '"a'
    odd = one(read(slurm(tmp_path, job("7", state="LOST_IN_SPACE"))))
    assert odd.status == "interrupted" and "Slurm's state LOST_IN_SPACE" in odd.note


@pytest.mark.parametrize("gpu", ["a100_1g.5gb", "1g.10gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"])
def test_a_slice_of_a_gpu_has_not_the_price_of_the_whole(tmp_path: Path, gpu: str) -> None:
    entry = one(read(slurm(tmp_path, job("1", tres=f"cpu=1,gres/gpu:{gpu}=1"))))
    assert (entry.device, entry.price_per_hour) == (gpu, 0)


def test_the_same_job_by_unix_times_is_no_other(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    for start in ("2025-03-17T10:00:00", "1742205600"):
        path = slurm(tmp_path, job("7").replace("2025-03-17T10:00:00", start, 1))
        bring(path, ledger=ledger, timezone="UTC")
    with Ledger(ledger) as opened:
        assert [row.run for row in opened.query()] == ["sacct:7"]


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
        ("JobID|JobName|State|ExitCode\n1|a|COMPLETED|0:0\n", "no column Start and no Elapsed"),
        ("100|al|gpu|COMPLETED|0:0\n101|al|gpu|FAILED|1:0\n", "is without names of columns: wri"),
        ('{"jobs": [], "meta": {}, "errors": []}', "is sacct's JSON, which is not read: write it"),
        ("JobID           JobName  Partition\n------- ----- ----\n", "--parsable2"),
        (SACCT + job(seconds="soon"), "is no duration"),
        (SACCT + job("").lstrip(), "has no JobID"),
        (f"{SACCT}{job(seconds='soon')}\n{job('')}", r"2 records cannot(.|\n)*no JobID(.|\n)*soon"),
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


def link(
    name: str, day: int, state: str, *, job: str = "big", hours: float = 24.0, gpus: int = 8
) -> str:
    """A job that begins at that day of March."""
    return (
        f"{name}|{job}|ada|lab|gpu|{state}|{hours * 3600:.0f}|2025-03-{day:02d}T00:00:00||"
        f"gres/gpu:h100={gpus}|96||0:0"
    )


def headline(tmp_path: Path, found: Found) -> float:
    """Device-hours of it, all rows being final."""
    tmp_path.joinpath("ledger.sqlite").unlink(missing_ok=True)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add(found.entries)
        return draw_up(ledger).headline.hours


@pytest.mark.parametrize(
    ("rows", "hours", "runs"),
    [
        ([("1", 1, "TIMEOUT"), ("2", 2, "PREEMPTED"), ("3", 3, "COMPLETED")], 3 * 24 * 8, 1),
        ([("1", 1, "TIMEOUT"), ("2", 2, "FAILED"), ("3", 3, "COMPLETED")], 24 * 8, 2),
        ([("1", 1, "CANCELLED"), ("2", 2, "COMPLETED")], 24 * 8, 2),
        ([("1", 1, "COMPLETED"), ("2", 2, "TIMEOUT")], 24 * 8, 2),
        ([("1", 1, "TIMEOUT"), ("2", 10, "COMPLETED")], 24 * 8, 2),
        ([("7", 1, "REQUEUED"), ("7", 3, "COMPLETED")], 2 * 24 * 8, 1),
    ],
)
def test_a_chain_of_jobs_that_slurm_cut_off_is_one_run(
    rows: list[tuple[str, int, str]], hours: float, runs: int, tmp_path: Path
) -> None:
    path = slurm(tmp_path, *(link(*row) for row in rows))
    found = read(path, timezone="UTC", purpose="final")
    assert headline(tmp_path, found) == hours
    assert len({entry.run for entry in found.entries}) == runs
    assert any("are one run" in line for line in found.assumed) == (runs < len(rows))


def test_jobs_side_by_side_or_of_another_name_are_no_chain(tmp_path: Path) -> None:
    rows = [
        *(link("1", 1, "TIMEOUT"), link("2", 1, "COMPLETED")),
        *(link("3", 2, "COMPLETED", job="other"), link("4", 2, "COMPLETED", gpus=4)),
    ]
    found = read(slurm(tmp_path, *rows), timezone="UTC", purpose="final")
    assert headline(tmp_path, found) == 24 * (8 + 8 + 4)
    path = put(tmp_path / "nameless.txt", SACCT.replace("JobName", "x") + "\n".join(rows[:1]))
    found = read(path, timezone="UTC")
    assert any("export JobName" in line for line in found.assumed)
