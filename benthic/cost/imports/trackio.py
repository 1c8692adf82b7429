"""Trackio: its SQLite files, and tables of their metrics in CSV or Parquet.

Each row of the tables `metrics` and `system_metrics` bears a run and a time, and those are signs of
life: no row says when a run began or ended, or how, unless the run logged run/status itself. System
metrics tell how many GPUs there were, how busy, and the joules that their counters saw; what they
are called Trackio does not say, so give --device. The project is the name of the file. Runs are
told apart by run_id where there is one, else by name; JSON may stand as text or as bytes.
"""

import json
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benthic.cost.imports.files import SQLITE, columns, database, shown, start_of, walk
from benthic.cost.imports.intake import Intake
from benthic.cost.imports.pieces import Piece, Signs, add_pieces
from benthic.cost.imports.record import Record, RecordError, clip, ending
from benthic.cost.imports.sheet import pick, plain, sheet_of
from benthic.cost.imports.times import Moment, moment, wall_clock
from benthic.cost.ledger.entries import Status

_GPU = re.compile(r"(?:rank(\d{1,6})/)?gpu/(\d{1,4})/(utilization|energy_consumed)")
_RUN = ("run_id", "run_name", "run")  # the first that is there tells runs apart
_NAME = ("run_name", "run", "run_id")
_STATUS = "run/status"


@dataclass
class _Run:
    name: str
    signs: Signs
    naive: bool = False
    """whether its times have no zone"""
    gpus: dict[str, set[str]] = field(default_factory=dict)
    """by rank, the GPUs that it saw"""
    busy: float = 0.0
    samples: int = 0
    counters: list[tuple[float, str, float]] = field(default_factory=list)
    """time, GPU and its joules since the run began"""
    status: Status | None = None
    user: str = ""
    group: str = ""
    project: str = ""

    def sign(self, moment: Moment) -> float:
        self.naive = self.naive or not moment.key.isdecimal()
        self.signs.add(moment.unix)
        return moment.unix


def is_one(header: Sequence[str]) -> bool:
    known = set(map(plain, header))
    return "timestamp" in known and bool(known & {"runname", "run"})


def is_database(connection: sqlite3.Connection) -> bool:
    have = columns(connection, "metrics")
    return {"timestamp", "metrics"} <= have and bool(have & set(_RUN))


def read(path: Path, intake: Intake) -> None:
    """Take the contiguous pieces of each run. Raises RecordError."""
    if path.is_dir():
        _read_folder(path, intake)
        return
    runs: dict[str, _Run] = {}
    if start_of(path, 16) == SQLITE:
        with database(path) as connection:
            _read_database(path, connection, runs, intake)
    else:
        _read_table(path, runs, intake)
    # Parquet of a project's system metrics and configs lies beside that of its metrics.
    stem = path.stem.removesuffix("_system")
    for key, run in runs.items():
        _take(key, run, stem, shown(path), intake)


def _read_folder(path: Path, intake: Intake) -> None:
    found = 0
    for folder, names in walk(path):
        for name in names:
            if name.endswith(".db") and start_of(folder / name, 16) == SQLITE:
                with database(folder / name) as connection:
                    ours = is_database(connection)
                if ours:
                    found += 1
                    read(folder / name, intake)
    if not found:
        raise RecordError(
            f"{shown(path)} holds no .db file of Trackio: give ~/.cache/huggingface/trackio, or a "
            "file in it"
        )


def _read_database(
    path: Path, connection: sqlite3.Connection, runs: dict[str, _Run], intake: Intake
) -> None:
    if not is_database(connection):
        raise RecordError(
            f"{shown(path)} has no table metrics with timestamp, run_name and metrics, so it is no "
            "file of Trackio: give one of ~/.cache/huggingface/trackio/*.db"
        )
    for table in ("metrics", "system_metrics"):
        have = columns(connection, table)
        key_column, name_column = _first(_RUN, have), _first(_NAME, have)
        if not key_column or not {"timestamp", "metrics"} <= have:
            continue
        project = "project_name" if "project_name" in have else "''"
        wanted = (
            "metrics"
            if table == "system_metrics"
            else f"CASE WHEN instr(metrics, '{_STATUS}') THEN metrics ELSE '' END"
        )
        rows = connection.execute(
            f"SELECT {key_column}, {name_column}, timestamp, {wanted}, {project} FROM {table}"
        )
        for number, (key, name, stamp, metrics, own) in enumerate(rows, 1):
            where = f"{shown(path)}, {table} row {number}"
            run = _run(runs, str(key), str(name), intake)
            run.project = run.project or str(own or "")
            when = run.sign(moment(str(stamp), where, intake))
            if metrics:
                _take_metrics(run, when, metrics, where)
    have = columns(connection, "configs")
    key_column = _first(_RUN, have)
    if key_column and "config" in have:
        for key, config in connection.execute(f"SELECT {key_column}, config FROM configs"):
            values = _object(config, f"{shown(path)}, configs")
            if str(key) in runs:
                runs[str(key)].user = str(values.get("_Username") or "")
                runs[str(key)].group = str(values.get("_Group") or "")


def _read_table(path: Path, runs: dict[str, _Run], intake: Intake) -> None:
    sheet = sheet_of(
        path,
        (*_RUN, "timestamp", "project_name", _STATUS),
        overlong=lambda _, sentence: intake.wrong(sentence),
    )
    column, stamp = sheet.find(*_RUN), sheet.find("timestamp")
    if column is None or stamp is None:
        raise RecordError(
            f"{shown(path)} has no column {'timestamp' if stamp is None else 'run_name'}: export "
            "the table metrics with timestamp and run_name, or give the .db file"
        )
    status, project = sheet.find(_STATUS), sheet.find("project_name")
    name = sheet.find(*_NAME)
    for line, cells in sheet.rows:
        with intake.row():
            key = pick(cells, column)
            if not key or not pick(cells, stamp):
                where = sheet.where(line)
                raise RecordError(f"{where} has no run or no timestamp: export it again")
            run = _run(runs, key, pick(cells, name) or key, intake)
            run.sign(moment(cells[stamp], sheet.where(line), intake))
            run.status = ending(pick(cells, status)) or run.status
            run.project = run.project or pick(cells, project)


def _first(names: Sequence[str], have: set[str]) -> str:
    return next((name for name in names if name in have), "")


def _run(runs: dict[str, _Run], key: str, name: str, intake: Intake) -> _Run:
    if key not in runs:
        runs[key] = _Run(name, Signs(intake.terms.gap))
    return runs[key]


def _take_metrics(run: _Run, when: float, text: object, where: str) -> None:
    for name, value in _object(text, where).items():
        if name == _STATUS and isinstance(value, str):
            run.status = ending(value) or run.status
        match = _GPU.fullmatch(name)
        if match is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        rank, gpu = match[1] or "", match[2]
        run.gpus.setdefault(rank, set()).add(gpu)
        if match[3] == "utilization" and 0 <= value <= 100:
            run.busy += value / 100
            run.samples += 1
        elif match[3] == "energy_consumed" and 0 <= value < 1e15:
            run.counters.append((when, f"{rank}/{gpu}", float(value)))


def _take(key: str, run: _Run, stem: str, where: str, intake: Intake) -> None:
    intake.assume(
        "Trackio records no end of a run: it is billed from its first to its last sign of life."
    )
    status = None if run.status == "running" else run.status

    def record(piece: Piece) -> Record:
        joules = _joules(run, piece)
        first = wall_clock(piece.first, intake) if run.naive else f"{piece.first:.3f}"
        return Record(
            where=where,
            key=(key, first),
            run=run.name,
            name=run.name,
            started=piece.first,
            seconds=piece.last - piece.first,
            status=status or "done",
            count=_count(run),
            project=run.project,
            project_else=stem,
            user=run.user,
            tags=[run.group],
            note="" if status else "outcome not recorded",
            joules=joules,
            energy_source="NVML counters, by Trackio" if joules else "not recorded",
            gpu_busy=run.busy / run.samples if run.samples else None,
        )

    add_pieces(intake, run.name, run.signs.pieces(), record, ended=status is not None)


def _count(run: _Run) -> int | None:
    """Each rank may see one GPU of its own, or all of the machine."""
    most = max((len(seen) for seen in run.gpus.values()), default=0)
    return (len(run.gpus) if most == 1 else most) or None


def _joules(run: _Run, piece: Piece) -> float:
    """What the counters gained within the piece; ranks that see all GPUs see the same counters."""
    alone = max((len(seen) for seen in run.gpus.values()), default=0) == 1
    least: dict[str, float] = {}
    most: dict[str, float] = {}
    for when, gpu, joules in run.counters:
        if piece.first <= when <= piece.last:
            key = gpu if alone else gpu.partition("/")[2]
            least[key] = min(least.get(key, joules), joules)
            most[key] = max(most.get(key, joules), joules)
    return sum(most[key] - least[key] for key in most)


def _object(stored: object, where: str) -> dict[str, object]:
    """The JSON object in a cell; text of any kind but UTF-8, and no text at all, is none."""
    text = stored.decode("utf-8", "replace") if isinstance(stored, bytes) else str(stored)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(
            f"{where} holds {clip(text, 40)!r}, no JSON object: restore the file"
        ) from None
    return value if isinstance(value, dict) else {}
