"""Slurm's accounting: `sacct --parsable2 --allocations --format=...`, a row for each allocation.

    sacct --parsable2 --allusers --starttime 2025-01-01 --format=JobID,User,Account,Partition,\\
        State,ElapsedRaw,Start,End,AllocTRES,AllocCPUS,ConsumedEnergyRaw,ExitCode

Billed is what was allocated, `gres/gpu:<type>=N` in AllocTRES; two types are two rows. Steps
(.batch, .0) ran inside an allocation and are passed over; elements of arrays, parts of
heterogeneous jobs and each start of a requeued job are allocations of their own. Times are in the
cluster's zone. A job that held no GPU has no price here, for what a core costs is not known.
sacct quotes nothing: a "|" in JobName, Comment or SubmitLine shifts what follows, and such a row is
left out. A row is known by JobID, start and, but for the first, the type of its GPUs.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from benthic.cost.imports.files import shown
from benthic.cost.imports.intake import Intake, Record, RecordError, clip
from benthic.cost.imports.sheet import Sheet, pick, plain, sheet_of
from benthic.cost.imports.times import moment, number, span, whole
from benthic.cost.ledger.entries import Status

_GPUS = re.compile(r"(?:^|,)gres/gpu(?::([^=,]+))?=(\d{1,9})(?=,|$)")
_OLD_GPUS = re.compile(r"(?:^|,)gpu(?::([A-Za-z][^:,]*))?:(\d{1,9})(?=[,(]|$)")
_ENDS: dict[str, Status] = {
    "COMPLETED": "done",
    **dict.fromkeys(("FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"), "failed"),
    **dict.fromkeys(("LAUNCH_FAILED", "RECONFIG_FAIL"), "failed"),
    **dict.fromkeys(("CANCELLED", "TIMEOUT", "PREEMPTED", "DEADLINE"), "interrupted"),
    **dict.fromkeys(("REVOKED", "REQUEUED", "EXPIRED"), "interrupted"),
}
_OPEN = frozenset(
    {
        *("RUNNING", "PENDING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "STOPPED"),
        *("SIGNALING", "STAGE_OUT", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
    }
)
_NO_ENERGY = 2.0**63  # Slurm's mark of a value that is not known is near 2**64


def is_one(header: Sequence[str]) -> bool:
    known = set(map(plain, header))
    return bool(known & {"jobid", "jobidraw"}) and {"state", "start"} <= known


def read(path: Path, intake: Intake) -> None:
    """Take each allocation that has ended. Raises RecordError."""
    sheet = sheet_of(path, overlong=lambda line: _leave_shifted(line, intake))
    column = {
        name: sheet.find(name)
        for name in (
            *("JobIDRaw", "JobID", "JobName", "User", "Account", "Partition", "State", "Elapsed"),
            *("ElapsedRaw", "Start", "End", "AllocTRES", "AllocGRES", "AllocCPUS", "NodeList"),
            *("ConsumedEnergyRaw", "ExitCode", "SubmitLine"),
        )
    }
    _check(sheet, column, intake)
    jobs: set[str] = set()
    steps: dict[str, None] = {}
    for line, cells in sheet.rows:
        job = pick(cells, column["JobID"]) or pick(cells, column["JobIDRaw"])
        if not job:
            raise RecordError(f"{sheet.where(line)} has no JobID: export it again")
        if "." in job:
            steps[job.partition(".")[0]] = None
            continue
        jobs.add(job)
        cell = {name: pick(cells, index) for name, index in column.items()}
        _take(cell, job, sheet.where(line), intake)
    for job in steps:
        if job not in jobs:
            intake.leave("only their steps are here", "export whole jobs with sacct", job)


def _leave_shifted(line: int, intake: Intake) -> None:
    intake.leave(
        "a text of theirs holds '|'",
        "export them with a --format without JobName, Comment, SubmitLine and other free text",
        f"row {line}",
    )


def _check(sheet: Sheet, column: dict[str, int | None], intake: Intake) -> None:
    needed = {
        "JobID": ("JobID", "JobIDRaw"),
        "State": ("State",),
        "Start": ("Start",),
        "ElapsedRaw": ("ElapsedRaw", "Elapsed"),
    }
    missing = [name for name, names in needed.items() if all(column[n] is None for n in names)]
    if missing:
        raise RecordError(
            f"{shown(sheet.path)} has no column {' and no '.join(missing)}: export it with sacct "
            "--parsable2 --format=JobID,User,Account,State,ElapsedRaw,Start,End,AllocTRES"
        )
    if column["AllocTRES"] is None and column["AllocGRES"] is None and not intake.terms.count:
        raise RecordError(
            f"{shown(sheet.path)} has no column AllocTRES, so how many GPUs were held is not "
            "known: export it with AllocTRES, or give --count for all jobs"
        )
    if column["JobID"] is None:
        intake.assume(
            "JobIDRaw numbers the elements of arrays otherwise than JobID, so rows of an export "
            "with JobID would count beside these: import always one or the other."
        )


def _take(cell: dict[str, str], job: str, where: str, intake: Intake) -> None:
    name = cell["JobName"] or job
    state = cell["State"].partition(" ")[0].rstrip("+").upper()
    if state in _OPEN:
        intake.leave("they have not ended", "import again when they have", name)
        return
    elapsed = cell["ElapsedRaw"] or cell["Elapsed"]
    seconds = span(elapsed, where) if elapsed else 0.0
    if not cell["Start"]:
        intake.leave("they never started", "nothing is owed for them", name)
        return
    start = moment(cell["Start"], where, intake)
    status = _ENDS.get(state, "interrupted")
    energy = cell["ConsumedEnergyRaw"]
    joules = number(energy, where, "ConsumedEnergyRaw") if energy else 0.0
    joules = joules if 0 < joules < _NO_ENERGY else 0.0
    held = gpus(cell["AllocTRES"], cell["AllocGRES"])
    known = bool(cell["AllocTRES"] or cell["AllocGRES"])
    cores = whole(cell["AllocCPUS"], where, "AllocCPUS") if cell["AllocCPUS"] else 0
    notes = [
        f"partition {cell['Partition']}" if cell["Partition"] else "",
        "" if state in _ENDS else f"Slurm's state {state}",
        f"{cores} cores" if cores and not held else "",
    ]
    kinds: list[tuple[str, int | None]] = [*held] or [("", 0 if known else None)]
    for place, (device, count) in enumerate(kinds):
        intake.add(
            Record(
                where=where,
                key=(job, start.key, *([device] if place else [])),
                run=job,
                name=name,
                started=start.unix,
                seconds=seconds,
                status=status,
                device=device,
                count=count,
                project=cell["Account"],
                user=cell["User"],
                host=cell["NodeList"],
                command=cell["SubmitLine"],
                exit_code=_exit_code(cell["ExitCode"]),
                joules=joules / max(1, len(held)),
                energy_source="Slurm: ConsumedEnergyRaw, of whole nodes" if joules else "not known",
                note=", ".join(filter(None, notes)),
            )
        )


def gpus(tres: str, gres: str = "") -> list[tuple[str, int]]:
    """Type and count of each kind of GPU held; a count without a type repeats those with one."""
    found = [(kind, int(count)) for kind, count in _GPUS.findall(tres)]
    found = found or [(kind, int(count)) for kind, count in _OLD_GPUS.findall(gres)]
    typed = [(kind, count) for kind, count in found if kind and count]
    plain_count = max((count for kind, count in found if not kind), default=0)
    rest = plain_count - sum(count for _, count in typed)
    return typed + ([("", rest)] if rest > 0 else [])


def _exit_code(text: str) -> int | None:
    code, _, signal = clip(text, 20).partition(":")
    if not code.isdecimal():
        return None
    return 128 + int(signal) if signal.isdecimal() and int(signal) else int(code)
