"""Weights & Biases: the folders that a run leaves on disk, and exports of the runs table.

A folder `run-<time>-<id>` or `offline-run-...` is one process: it began at `startedAt` of
files/wandb-metadata.json and lasted `_wandb.runtime`, else `_runtime`, seconds of
files/wandb-summary.json. The outcome is in neither: a run that wrote `_wandb.runtime` came to its
end and counts as done, one that did not counts as interrupted. Where both files are missing, as of
a run that was offline, its binary log tells all that, and the outcome (`wandb_log`). A CSV or JSON
export of the runs table knows the outcome and covers all processes of a run, so import folders or
the export, not both. GPUs are those of the machine that logged, used or not.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

from benthic.cost.imports.files import json_of, shown, start_of, text_of, walk
from benthic.cost.imports.intake import Intake
from benthic.cost.imports.record import Record, RecordError, clip, ending
from benthic.cost.imports.sheet import pick, plain, sheet_of
from benthic.cost.imports.table import NAMELESS, UNNAMED
from benthic.cost.imports.times import Moment, moment, span, whole
from benthic.cost.imports.wandb_log import MAGIC, read_log
from benthic.cost.ledger.entries import Status
from benthic.cost.metering.masking import masked

METADATA = "wandb-metadata.json"
SUMMARY = "wandb-summary.json"
LOG = ".wandb"  # how the name of a binary log ends
_FOLDER = re.compile(r"(?:offline-)?run-(\d{8})_(\d{6})-(.+)")
_START = re.compile(r"\s+start_time:\s*(\d{9,11}(?:\.\d*)?)\s*")
_COLUMNS = {
    "id": ("ID", "id", "run_id"),
    "name": ("Name", "display_name", "displayName", "name"),
    "state": ("State", "state"),
    "created": ("Created", "created_at", "createdAt", "started_at", "startedAt"),
    "runtime": ("Runtime", "_runtime", "summary._wandb.runtime", "summary._runtime", "runtime"),
    "user": ("User", "username", "user.username", "user.name", "user"),
    "project": ("Project", "project", "project.name"),
    "device": ("GPU Type", "metadata.gpu", "gpu_type", "gpu"),
    "count": ("GPU Count", "metadata.gpu_count", "metadata.gpuCount", "gpu_count", "gpuCount"),
    "sweep": ("Sweep", "sweep.id", "sweep_id", "sweepName", "sweep"),
    "tags": ("Tags", "tags"),
    "type": ("Job Type", "job_type", "jobType"),
    "host": ("Hostname", "host", "metadata.host"),
    "notes": ("Notes", "notes"),
}


def is_one(header: Sequence[str]) -> bool:
    """Whether a table with these columns is an export of runs."""
    exact, known = set(header), set(map(plain, header))
    if {"Created", "Runtime"} <= exact or {"Runtime", "State"} <= exact:
        return True
    found = known & {"runtime", "summaryruntime", "summarywandbruntime"}
    return bool(found and known & {"createdat", "startedat"} and "state" in known)


def read(path: Path, intake: Intake) -> None:
    """Take every run of a folder, or every row of an export. Raises RecordError."""
    if path.is_dir():
        folders = 0
        for folder, files in walk(path, skip=frozenset({"code", "media", "logs", "tmp"})):
            if METADATA in files or SUMMARY in files:
                folders += 1
                with intake.row():
                    _take_folder(folder, files, intake)
            for name in files:
                if name.endswith(LOG) and not _is_told(folder):
                    folders += 1
                    with intake.row():
                        _take_log(folder / name, intake)
        if not folders:
            raise RecordError(
                f"{shown(path)} holds no {METADATA}, no {SUMMARY} and no {LOG}: give the folder "
                "wandb, or a CSV export of the runs table"
            )
    elif path.name == METADATA or path.name == SUMMARY:
        _take_folder(path.parent, [file.name for file in path.parent.iterdir()], intake)
    elif start_of(path, len(MAGIC)) == MAGIC:
        _take_log(path, intake)
    else:
        _take_table(path, intake)


def _is_told(folder: Path) -> bool:
    """Whether the run in that folder is told by the files beside its log."""
    return any((folder / "files" / name).is_file() for name in (METADATA, SUMMARY))


def _take_log(path: Path, intake: Intake) -> None:
    log, where = read_log(path), shown(path)
    name = log.id or path.name.removesuffix(LOG).removeprefix("run-")
    if log.started is None or (log.seconds is None and log.seen is None):
        intake.leave(
            "their log says not how long they took", "import an export of the runs table", name
        )
        return
    lasted = log.seconds
    if lasted is None:
        lasted = max(0.0, (log.seen or 0.0) - log.started)
        if 0 <= intake.now - (log.started + lasted) <= intake.terms.gap:
            intake.leave("they may still run", "import again when they have surely ended", name)
            return
    status: Status = "done" if log.exit_code == 0 else "failed"
    if log.gpus:
        _tell_of_gpus(intake)
    intake.add(
        Record(
            where=where,
            key=(name, str(math.floor(log.started))),
            run=name,
            name=log.name or name,
            started=log.started,
            seconds=lasted,
            status="interrupted" if log.seconds is None else status,
            device=log.gpu,
            count=log.gpus or None,
            project=log.project,
            user=log.user,
            host=log.host,
            tags=[*log.tags, log.job_type],
            command=masked([part for part in (log.program, *log.args) if part]),
            note=log.notes,
            exit_code=None if log.seconds is None else log.exit_code,
        )
    )


def _take_folder(files: Path, names: Sequence[str], intake: Intake) -> None:
    where = shown(files)
    meta = _object(files / METADATA) if METADATA in names else {}
    summary = _object(files / SUMMARY) if SUMMARY in names else {}
    outer = _FOLDER.fullmatch(files.parent.name) or _FOLDER.fullmatch(files.name)
    start = _start(files, names, meta, outer, where, intake)
    own = summary.get("_wandb")
    ended = _number(own.get("runtime")) if isinstance(own, dict) else None
    lasted = ended if ended is not None else _number(summary.get("_runtime"))
    stamp = _number(summary.get("_timestamp"))
    if lasted is None and stamp is not None:
        lasted = max(0.0, stamp - start.unix)
    name = outer[3] if outer else files.parent.name
    if lasted is None:
        intake.leave(
            "their folder says not how long they took", "import an export of the runs table", name
        )
        return
    if ended is None and 0 <= intake.now - (start.unix + lasted) <= intake.terms.gap:
        intake.leave("they may still run", "import again when they have surely ended", name)
        return
    status: Status = "done" if ended is not None else "interrupted"
    intake.assume(
        "Folders of wandb record no outcome: runs that came to an end count as done, also those "
        "that failed; an export of the runs table knows."
    )
    _tell_of_gpus(intake)
    count = _first(meta, "gpu_count", "gpuCount")
    args = meta.get("args")
    command = [meta.get("program"), *(args if isinstance(args, list) else [])]
    intake.add(
        Record(
            where=where,
            key=(name, start.key),
            run=name,
            name=name,
            started=start.unix,
            seconds=_positive(lasted, where),
            status=status,
            device=_text(meta, "gpu"),
            count=whole(count, where, "gpu_count") if count else None,
            user=_text(meta, "username"),
            host=_text(meta, "host"),
            command=masked([part for part in command if isinstance(part, str)]),
            note="outcome not recorded" if ended is not None else "",
        )
    )


def _start(
    files: Path,
    names: Sequence[str],
    meta: dict[str, Any],
    outer: re.Match[str] | None,
    where: str,
    intake: Intake,
) -> Moment:
    written = _text(meta, "startedAt")
    if written:
        return moment(written, where, intake, zone=UTC)  # older versions write UTC without a zone
    if "config.yaml" in names:
        for line in text_of(files / "config.yaml").splitlines():
            if match := _START.fullmatch(line):
                return moment(match[1], where, intake)
    if outer:  # the machine's own zone
        day, clock = outer[1], outer[2]
        return moment(f"{day}T{clock}", where, intake)
    raise RecordError(
        f"{where} says not when the run started, there is no startedAt in {METADATA}: copy the "
        "whole folder run-<time>-<id>, or import an export of the runs table"
    )


def _take_table(path: Path, intake: Intake) -> None:
    sheet = sheet_of(path, overlong=lambda _, sentence: intake.wrong(sentence))
    column = {role: sheet.find(*names) for role, names in _COLUMNS.items()}
    for role, names in (("created", "Created"), ("runtime", "Runtime"), ("state", "State")):
        if column[role] is None:
            raise RecordError(
                f"{shown(path)} has no column '{names}' ({', '.join(_COLUMNS[role])} are taken): "
                "show it in the runs table and export again"
            )
    if column["id"] is None:
        intake.assume(
            "Without the column ID a run is known by its name and start, and counts twice if it "
            "was renamed, or imported by its folder: show ID in the runs table and export again."
        )
    for line, cells in sheet.rows:
        with intake.row():
            cell = {role: pick(cells, index) for role, index in column.items()}
            _take_row(cell, line, sheet.where(line), intake)


def _take_row(cell: dict[str, str], line: int, where: str, intake: Intake) -> None:
    name = cell["name"] or cell["id"] or f"row {line}"
    status = ending(cell["state"])
    if status == "running":
        intake.leave("they have not ended", "export again when they have", name)
        return
    if status is None:
        raise RecordError(
            f"{where}: '{clip(cell['state'], 60)}' is no state of a run, such as finished, "
            "failed, crashed, killed or running: correct it"
        )
    if not cell["runtime"] or not cell["created"]:
        intake.leave("their start or runtime is empty", "fill it in to bill them", name)
        return
    start = moment(cell["created"], where, intake, zone=UTC)
    seconds = _positive(span(cell["runtime"], where), where)
    tags = [*cell["tags"].split(","), cell["type"], "sweep" if cell["sweep"] else ""]
    if cell["count"] or cell["device"]:
        _tell_of_gpus(intake)
    run, key = cell["id"] or name, [cell["id"] or cell["name"], start.key]
    if not key[0]:
        intake.assume(NAMELESS)
        key += [f"{seconds:.3f}", cell["device"], cell["count"]]
        run = UNNAMED + " ".join(key[1:])  # another file has another run in a row of this number
    intake.add(
        Record(
            where=where,
            key=tuple(key),
            run=run,
            name=name,
            started=start.unix,
            seconds=seconds,
            status=status,
            device=cell["device"],
            count=whole(cell["count"], where, "GPU Count") if cell["count"] else None,
            project=cell["project"],
            user=cell["user"],
            host=cell["host"],
            tags=tags,
            note=cell["notes"],
        )
    )


def _tell_of_gpus(intake: Intake) -> None:
    intake.assume(
        "wandb counts the GPUs of the machine that logged, whether the run used them all or more "
        "machines than one: put right with 'benthic cost amend ID --set count=N' what did "
        "otherwise."
    )


def _object(path: Path) -> dict[str, Any]:
    value = json_of(path, 64_000_000)  # summaries hold histograms and tables
    if not isinstance(value, dict):
        raise RecordError(f"{shown(path)} is not a JSON object: copy the run's folder again")
    return value


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _first(values: dict[str, Any], *names: str) -> str:
    for name in names:
        if isinstance(values.get(name), int | float | str) and values[name] != "":
            return str(values[name])
    return ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _positive(seconds: float, where: str) -> float:
    if not seconds >= 0:
        raise RecordError(f"{where}: the run took {seconds:g} seconds, below 0: correct it")
    return seconds
