"""Imports of stores: MLflow's folder, SQLite and CSV, Trackio's SQLite and its tables."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from benthic.cost.imports import Found, RecordError, read
from benthic.cost.ledger.ledger import Entry, Ledger

START = 1742205600.0  # 2025-03-17 10:00 UTC


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def one(found: Found) -> Entry:
    (entry,) = found.entries
    return entry


# MLflow


def mlrun(root: Path, run: str, *, status: int = 3, start: float = START, **more: Any) -> Path:
    folder = root / "mlruns" / "42" / run
    put(root / "mlruns" / "42" / "meta.yaml", "artifact_location: x\nname: 'it''s moe'\n")
    meta = {
        "artifact_uri": "file:///x/artifacts",
        "end_time": round((start + 3600) * 1000),
        "experiment_id": "'42'",
        "lifecycle_stage": "active",
        "run_id": run,
        "run_name": "bold-shad-1",
        "source_name": "''",
        "start_time": round(start * 1000),
        "status": status,
        "tags": "[]",
        "user_id": "ada",
    } | more
    put(folder / "meta.yaml", "".join(f"{key}: {value}\n" for key, value in meta.items()))
    times = "start_time: 1742205600000\nend_time: 1742205700000\n"
    put(folder / "artifacts" / "m" / "meta.yaml", "run_id: x\nstatus: 3\n" + times)
    return folder


def test_mlflow_folder(tmp_path: Path) -> None:
    mlrun(tmp_path, "aa", lifecycle_stage="deleted")
    mlrun(tmp_path, "bb", status=4)
    mlrun(tmp_path, "cc", status=5)
    mlrun(tmp_path, "dd", status=1, end_time="null")
    busy = tmp_path / "mlruns" / "42" / "aa" / "metrics" / "system"
    for gpu, percent in (("0", 50), ("1", 100)):
        put(busy / f"gpu_{gpu}_utilization_percentage", f"1742205601000 {percent} 0\n")
    put(tmp_path / "mlruns" / "42" / "bb" / "tags" / "purpose", "eval")
    (tmp_path / "mlruns" / "42" / "loop").symlink_to(tmp_path / "mlruns")
    found = read(tmp_path / "mlruns")
    assert [(e.run, e.status, e.purpose) for e in found.entries] == [
        ("mlflow:aa", "done", "other"),
        ("mlflow:bb", "failed", "evaluation"),
        ("mlflow:cc", "interrupted", "other"),
    ]
    first = found.entries[0]
    assert (first.started, first.seconds, first.user) == (START, 3600, "ada")
    assert (first.project, first.note.split(";")[0]) == ("it's moe", "deleted in MLflow")
    assert (first.count, first.gpus, first.gpu_busy) == (2, 2, 0.75)
    assert len(found.left_out) == 1 and "have not ended" in found.left_out[0]
    assert {e.project for e in read(tmp_path / "mlruns", project="moe").entries} == {"moe"}
    alone = read(tmp_path / "mlruns" / "42" / "bb")
    assert one(alone).external == found.entries[1].external
    assert one(alone).project == "it's moe"


def mlflow_database(path: Path, runs: list[tuple[Any, ...]], tags: list[tuple[str, ...]]) -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE experiments (experiment_id INTEGER, name TEXT);"
            "CREATE TABLE runs (run_uuid TEXT, name TEXT, user_id TEXT, status TEXT, start_time "
            "BIGINT, end_time BIGINT, experiment_id INTEGER, lifecycle_stage TEXT);"
            "CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);"
            "CREATE TABLE metrics (key TEXT, value REAL, timestamp BIGINT, step BIGINT, "
            "run_uuid TEXT);"
            "INSERT INTO experiments VALUES (42, 'moe');"
            "INSERT INTO metrics VALUES ('system/gpu_0_utilization_percentage', 40, 1, 0, 'aa'),"
            "('system/gpu_0_utilization_percentage', 80, 2, 1, 'aa');"
        )
        connection.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", runs)
        connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)
    connection.close()
    return path


def test_mlflow_forms_are_the_same_rows_and_nested_runs_are_inside(tmp_path: Path) -> None:
    mlrun(tmp_path, "aa")
    row = ("ada", "FINISHED", round(START * 1000), round((START + 3600) * 1000), 42, "active")
    inner = (
        "ada",
        "KILLED",
        round((START + 60) * 1000),
        round((START + 1860) * 1000),
        42,
        "active",
    )
    path = mlflow_database(
        tmp_path / "mlflow.db",
        [("aa", "bold-shad-1", *row), ("bb", "inner", *inner)],
        [("mlflow.parentRunId", "aa", "bb"), ("mlflow.user", "bob", "bb")],
    )
    table = put(
        tmp_path / "runs.csv",
        "run_id,experiment_id,status,start_time,end_time,tags.mlflow.user\n"
        "aa,42,FINISHED,2025-03-17 10:00:00+00:00,2025-03-17 11:00:00.000000+00:00,ada\n",
    )
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        stored = read(path, price=2)
        assert ledger.add(stored.entries) == (2, 0)
        assert ledger.add(read(tmp_path / "mlruns", price=2).entries) == (0, 1)
        assert ledger.add(read(table, price=2).entries) == (0, 1)
        (total,) = ledger.groups()
    outer, inside = stored.entries
    assert (outer.project, outer.gpu_busy, inside.user) == ("moe", 0.6, "bob")
    assert total.dollars == pytest.approx(2.0)  # an hour, whatever ran inside it


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"status": 9}, "'9' is no status of MLflow"),
        ({"start_time": "soon"}, "'soon' is no time"),
        ({"end_time": 1742205500000}, "100 seconds before it started"),
        ({"start_time": 5}, "'5' is no time"),
        ({"start_time": -1742205600000}, "is no time"),
        ({"user_id": "x" * 5_000_000}, "more than 4 MB"),
    ],
)
def test_bad_mlflow_runs(tmp_path: Path, more: dict[str, Any], match: str) -> None:
    mlrun(tmp_path, "aa", **more)
    with pytest.raises(RecordError, match=match):
        read(tmp_path / "mlruns")


def test_views_of_a_strange_database_are_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE VIEW runs AS WITH RECURSIVE r(run_uuid, start_time, end_time) AS (SELECT 1, 1, "
            "1 UNION ALL SELECT run_uuid + 1, 1, 1 FROM r) SELECT * FROM r;"
        )
    connection.close()
    for kind, match in (
        ("auto", "of another program"),
        ("mlflow", "no table runs"),
        ("trackio", "no table metrics"),
    ):
        with pytest.raises(RecordError, match=match):
            read(path, kind=kind)
    path.write_bytes(path.read_bytes()[:100] + bytes(4000))
    with pytest.raises(RecordError, match="SQLite file"):
        read(path)


# Trackio


def trackio_database(path: Path, rows: list[tuple[float, str, dict[str, Any]]]) -> Path:
    def stamp(second: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + ".250000+00:00"

    with sqlite3.connect(path) as connection:
        for table in ("metrics", "system_metrics"):
            step = "step INTEGER NOT NULL," if table == "metrics" else ""
            connection.execute(
                f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, timestamp TEXT NOT NULL, "
                f"run_name TEXT NOT NULL, {step} metrics TEXT NOT NULL)"
            )
        connection.execute(
            "CREATE TABLE configs (id INTEGER PRIMARY KEY, run_name TEXT, config TEXT, "
            "created_at TEXT)"
        )
        for second, run, metrics in rows:
            system = any("gpu/" in name for name in metrics)
            table, step = ("system_metrics", "") if system else ("metrics", "step, ")
            connection.execute(
                f"INSERT INTO {table} (timestamp, run_name, {step}metrics) "
                f"VALUES (?, ?, {'' if system else '0, '}?)",
                (stamp(second), run, json.dumps(metrics)),
            )
        config = json.dumps({"_Username": "ada", "_Group": "eval"})
        connection.execute("INSERT INTO configs VALUES (1, 'r1', ?, '')", (config,))
    connection.close()
    return path


def test_trackio_bills_contiguous_pieces(tmp_path: Path) -> None:
    gpu = {"gpu/0/utilization": 50, "gpu/0/energy_consumed": 100.0, "gpu/1/utilization": 100}
    path = trackio_database(
        tmp_path / "moe.db",
        [
            *((START + 60 * i, "r1", {"loss": 1.0}) for i in range(10)),
            (START + 10, "r1", gpu),
            (START + 600, "r1", gpu | {"gpu/0/energy_consumed": 5100.0}),
            *((START + 7200 + 60 * i, "r1", {"loss": 1.0}) for i in range(5)),
            (START, "r2", {"loss": 1.0}),
            (START + 60, "r2", {"run/status": "failed"}),
        ],
    )
    found = read(path, device="H100")
    assert [(e.name, e.seconds, e.joules, e.status) for e in found.entries] == [
        ("r1", 600, 5000, "done"),
        ("r1", 240, 0, "done"),
        ("r2", 60, 0, "failed"),
    ]
    first = found.entries[0]
    assert (first.started, first.count, first.gpu_busy) == (START + 0.25, 2, 0.75)
    assert (first.project, first.user, first.purpose) == ("moe", "ada", "evaluation")
    assert {e.project for e in read(path, project="rope").entries} == {"rope"}
    assert any("no sign of life for 1.8 h" in line for line in found.assumed)
    copy = tmp_path / "copy" / "renamed.db"
    copy.parent.mkdir()
    path.rename(copy)
    assert [e.external for e in read(tmp_path / "copy").entries] == [
        e.external for e in found.entries
    ]


def test_trackio_of_today_has_run_ids_and_json_in_bytes(tmp_path: Path) -> None:
    """As trackio 0.43 writes: JSON as BLOB in columns of text, runs that share a name."""
    path = tmp_path / "tp.db"
    gpu = {"gpu/0/utilization": 50, "gpu/0/energy_consumed": 100.0}
    with sqlite3.connect(path) as connection:
        head = "id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, "
        stamped = "timestamp TEXT NOT NULL, run_name TEXT NOT NULL, "
        connection.execute(f"CREATE TABLE metrics ({head}{stamped}step INTEGER, metrics TEXT)")
        connection.execute(f"CREATE TABLE system_metrics ({head}{stamped}metrics TEXT)")
        connection.execute(f"CREATE TABLE configs ({head}run_name TEXT, config TEXT)")
        for second, run, metrics in (
            *((0, "aa", {"loss": 1}), (60, "aa", {"run/status": "failed"})),
            *((60.6, "bb", {"loss": 1}), (180.6, "bb", {"loss": 0})),
        ):
            values = (run, f"2025-03-17T10:0{second // 60:.0f}:{second % 60:04.1f}+00:00", "r")
            connection.execute(
                "INSERT INTO metrics (run_id, timestamp, run_name, metrics) VALUES (?, ?, ?, ?)",
                (*values, json.dumps(metrics).encode()),
            )
        for minute, joules in ((1.01, 0), (3, 50)):
            at = f"2025-03-17T10:0{int(minute)}:{minute % 1 * 60:04.1f}+00:00"
            connection.execute(
                "INSERT INTO system_metrics (run_id, timestamp, run_name, metrics) "
                "VALUES ('bb', ?, 'r', ?)",
                (at, json.dumps(gpu | {"gpu/0/energy_consumed": joules}).encode()),
            )
        config = json.dumps({"_Username": "ada", "_Group": "ablation"}).encode()
        connection.execute("INSERT INTO configs VALUES (1, 'bb', 'r', ?)", (config,))
    connection.close()
    rows = [(e.name, e.seconds, e.status, e.joules, e.user) for e in read(path).entries]
    assert rows == [("r", 60, "failed", 0, ""), ("r", 120, "done", 50, "ada")]


def test_a_table_of_trackio_has_the_keys_of_its_database(tmp_path: Path) -> None:
    path = trackio_database(tmp_path / "moe.db", [(START, "r", {}), (START + 60, "r", {})])
    rows = ["timestamp,run_name,step,loss"]
    rows += [f"2025-03-17T10:0{i}:00.250000+00:00,r,0,1.5" for i in (0, 1)]
    table = put(tmp_path / "moe.csv", "\n".join(rows))
    assert one(read(table)).external == one(read(path)).external
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    stamps = [row.split(",")[0] for row in rows[1:]]
    parquet.write_table(
        arrow.table({"timestamp": stamps, "run_name": ["r", "r"], "loss": [[1.0], [2.0]]}),
        tmp_path / "moe.parquet",
    )
    assert one(read(tmp_path / "moe.parquet")).external == one(read(path)).external
    put(tmp_path / "bad.parquet", "PAR1" + "x" * 100)
    with pytest.raises(RecordError, match="as Parquet"):
        read(tmp_path / "bad.parquet")


def test_times_without_a_zone_make_one_row_whatever_the_zone(tmp_path: Path) -> None:
    rows = ["timestamp,run_name", "2025-03-17T10:00:00.5,r", "2025-03-17T10:01:00.5,r"]
    table = put(tmp_path / "old.csv", "\n".join(rows))
    utc, tokyo = (one(read(table, timezone=zone)) for zone in ("UTC", "Asia/Tokyo"))
    assert utc.external == tokyo.external and utc.started - tokyo.started == 9 * 3600


def test_what_may_still_run_is_left_out_until_it_ended(tmp_path: Path) -> None:
    now = time.time()
    path = trackio_database(tmp_path / "a.db", [(now - 600, "r", {}), (now - 60, "r", {})])
    found = read(path)
    assert not found.entries and "less than 30 minutes old" in found.left_out[0]
    assert len(read(path, gap=30).entries) == 0  # two single signs: no time at all
    done = [(now - 600, "r", {}), (now - 60, "r", {"run/status": "finished"})]
    assert one(read(trackio_database(tmp_path / "b.db", done))).seconds == 540


def test_bad_trackio_files(tmp_path: Path) -> None:
    path = trackio_database(tmp_path / "a.db", [(START, "r", {}), (START + 60, "r", {})])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE metrics SET timestamp = 'soon' WHERE id = 2")
    connection.close()
    with pytest.raises(RecordError, match="metrics row 2: 'soon' is no time"):
        read(path)
