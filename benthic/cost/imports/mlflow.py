"""MLflow: a folder `mlruns`, a SQLite store `mlflow.db`, or a CSV of `search_runs`.

Times are unix milliseconds, in the CSV UTC; the status is a number 1 to 5 in meta.yaml and a word
elsewhere. A run inside another one, by the tag mlflow.parentRunId, is billed inside it and not on
top of it. Deleted runs were paid for too. Of system metrics, utilisation tells how many GPUs there
were and how busy; what they are called MLflow does not say, so give --device. Of YAML only the
plain `key: value` lines of meta.yaml are read.
"""

import re
import sqlite3
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path

from benthic.cost.imports.files import (
    SQLITE,
    columns,
    database,
    scalars,
    shown,
    start_of,
    text_of,
    walk,
)
from benthic.cost.imports.intake import Intake
from benthic.cost.imports.record import Record, RecordError, clip
from benthic.cost.imports.sheet import pick, sheet_of
from benthic.cost.imports.times import moment
from benthic.cost.ledger.entries import Status

META = "meta.yaml"
_STATUS: dict[str, Status] = {
    **dict.fromkeys(("1", "RUNNING", "2", "SCHEDULED"), "running"),
    **dict.fromkeys(("3", "FINISHED"), "done"),
    **dict.fromkeys(("4", "FAILED"), "failed"),
    **dict.fromkeys(("5", "KILLED"), "interrupted"),
}
_BUSY = re.compile(r"(?:system/)?gpu_(\d{1,4})_utilization_percentage")
_TAGS = ("mlflow.user", "mlflow.runName", "mlflow.parentRunId", "purpose", "project")
_METRIC_FILE = 64_000_000


def is_one(header: Sequence[str]) -> bool:
    return {"run_id", "experiment_id", "start_time", "status"} <= set(header)


def is_database(connection: sqlite3.Connection) -> bool:
    return {"run_uuid", "start_time", "end_time"} <= columns(connection, "runs")


def read(path: Path, intake: Intake) -> None:
    """Take each run that has ended. Raises RecordError."""
    if path.is_dir():
        _read_folder(path, intake)
    elif start_of(path, 16) == SQLITE:
        with database(path) as connection:
            _read_database(path, connection, intake)
    else:
        _read_table(path, intake)


def _read_folder(path: Path, intake: Intake) -> None:
    experiments: dict[Path, str] = {}
    runs = 0
    for folder, files in walk(path, skip=frozenset({"artifacts", "params", "traces"})):
        if META not in files:
            continue
        meta = scalars(folder / META)
        run = meta.get("run_id") or meta.get("run_uuid")
        if not run or "start_time" not in meta:
            experiments[folder] = meta.get("name", "")
            continue
        runs += 1
        project = experiments.get(folder.parent)
        if project is None:
            above = folder.parent / META
            project = scalars(above).get("name", "") if above.is_file() else ""
            experiments[folder.parent] = project
        tags = {tag: _line(folder / "tags" / tag) for tag in _TAGS}
        busy = _busy_of_files(folder)
        with intake.row():
            _take(meta | {"run_id": run}, tags, busy, project, shown(folder / META), intake)
    if not runs:
        raise RecordError(
            f"{shown(path)} holds no run of MLflow, a folder with {META} that has run_id and "
            "start_time: give the folder mlruns, mlflow.db or a CSV of search_runs"
        )


def _line(path: Path) -> str:
    return text_of(path).strip() if path.is_file() and not path.is_symlink() else ""


def _busy_of_files(folder: Path) -> dict[str, float]:
    """Mean percent of each GPU, from lines of time, value and step."""
    metrics, found = folder / "metrics" / "system", {}
    if not metrics.is_dir() or metrics.is_symlink():
        return {}
    for file in sorted(metrics.iterdir()):
        match = _BUSY.fullmatch(file.name)
        if match and file.is_file() and not file.is_symlink():
            lines = (line.split() for line in text_of(file, _METRIC_FILE).splitlines())
            values = [_percent(line[1]) for line in lines if len(line) > 1]
            if values:
                found[match[1]] = sum(values) / len(values)
    return found


def _percent(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _read_database(path: Path, connection: sqlite3.Connection, intake: Intake) -> None:
    if not is_database(connection):
        raise RecordError(
            f"{shown(path)} has no table runs with run_uuid, start_time and end_time, so it is no "
            "store of MLflow: give mlflow.db or a CSV of search_runs"
        )
    names: dict[object, str] = {}
    if {"experiment_id", "name"} <= columns(connection, "experiments"):
        names = dict(connection.execute("SELECT experiment_id, name FROM experiments"))
    tags: dict[str, dict[str, str]] = {}
    if {"key", "value", "run_uuid"} <= columns(connection, "tags"):
        marks = ", ".join("?" * len(_TAGS))
        for run, key, value in connection.execute(
            f"SELECT run_uuid, key, value FROM tags WHERE key IN ({marks})", _TAGS
        ):
            tags.setdefault(str(run), {})[str(key)] = str(value or "")
    busy: dict[str, dict[str, float]] = {}
    if {"key", "value", "run_uuid"} <= columns(connection, "metrics"):
        for run, key, value in connection.execute(
            "SELECT run_uuid, key, AVG(value) FROM metrics "
            "WHERE key LIKE '%gpu%utilization_percentage' GROUP BY run_uuid, key"
        ):
            if match := _BUSY.fullmatch(str(key)):
                busy.setdefault(str(run), {})[match[1]] = _percent(str(value))
    have = columns(connection, "runs")
    wanted = (
        *("run_uuid", "name", "user_id", "status", "start_time", "end_time", "experiment_id"),
        "lifecycle_stage",
    )
    picked = ", ".join(name if name in have else f"NULL AS {name}" for name in wanted)
    for values in connection.execute(f"SELECT {picked} FROM runs ORDER BY start_time, run_uuid"):
        row = {name: "" if value is None else str(value) for name, value in zip(wanted, values)}
        run = row["run_uuid"]
        meta = row | {"run_id": run, "run_name": row["name"]}
        project = str(names.get(values[wanted.index("experiment_id")]) or "")
        where = f"{shown(path)}, run {clip(run, 40)}"
        _take(meta, tags.get(run, {}), busy.get(run, {}), project, where, intake)


def _read_table(path: Path, intake: Intake) -> None:
    sheet = sheet_of(path, overlong=lambda _, sentence: intake.wrong(sentence))
    names = ("run_id", "status", "start_time", "end_time", "experiment_id", "user_id", "run_name")
    column: dict[str, int | None] = {name: sheet.find(name) for name in names}
    missing = [name for name in names[:4] if column[name] is None]
    if missing:
        raise RecordError(
            f"{shown(path)} has no column {' and no '.join(missing)}: write what "
            "mlflow.search_runs returns with to_csv"
        )
    tags = {tag: sheet.find(f"tags.{tag}") for tag in _TAGS}
    gpus = {match[1]: i for i, name in enumerate(sheet.header) if (match := _gpu_column(name))}
    for line, cells in sheet.rows:
        meta = {name: pick(cells, index) for name, index in column.items()}
        busy = {gpu: _percent(cells[i]) for gpu, i in gpus.items() if pick(cells, i)}
        own = {tag: pick(cells, index) for tag, index in tags.items()}
        with intake.row():
            _take(meta, own, busy, "", sheet.where(line), intake)


def _gpu_column(name: str) -> re.Match[str] | None:
    return _BUSY.fullmatch(name.removeprefix("metrics."))


def _take(
    meta: dict[str, str],
    tags: dict[str, str],
    busy: dict[str, float],
    project: str,
    where: str,
    intake: Intake,
) -> None:
    run = meta["run_id"]
    name = meta.get("run_name") or tags.get("mlflow.runName") or run
    if not run:
        raise RecordError(f"{where} has no run_id: export it again")
    status = _STATUS.get(meta.get("status", "").upper())
    if status is None:
        raise RecordError(
            f"{where}: '{clip(meta.get('status', ''), 60)}' is no status of MLflow, 1 to 5 or "
            "RUNNING, SCHEDULED, FINISHED, FAILED, KILLED: correct it"
        )
    start, end = _time(meta.get("start_time", "")), _time(meta.get("end_time", ""))
    if status == "running" or not end or not start:
        why = "they have not ended, or their process was killed and MLflow never told"
        intake.leave(why, "end them with MlflowClient.set_terminated and import again", name)
        return
    began = moment(start, where, intake, zone=UTC).unix
    ended = moment(end, where, intake, zone=UTC).unix
    if ended < began:
        raise RecordError(
            f"{where}: '{clip(name, 60)}' ended {began - ended:g} seconds before it started: "
            "correct one of both times"
        )
    parent = tags.get("mlflow.parentRunId")
    shares = [value / 100 for value in busy.values() if 0 <= value <= 100]
    intake.add(
        Record(
            where=where,
            key=(run,),
            run=run,
            name=name,
            started=began,
            seconds=ended - began,
            status=status,
            count=len(busy) or None,
            project=tags.get("project") or "",
            project_else=project,
            user=tags.get("mlflow.user") or meta.get("user_id", ""),
            purpose=tags.get("purpose", ""),
            note="deleted in MLflow" if meta.get("lifecycle_stage") == "deleted" else "",
            gpu_busy=sum(shares) / len(shares) if shares else None,
            parent=(parent,) if parent and parent != run else None,
        )
    )


def _time(text: str) -> str:
    """Milliseconds, as a file has them; a time of 0 is none."""
    return "" if text in ("", "0", "None", "null") else text
