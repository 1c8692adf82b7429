"""Slurm's accounting: `sacct --parsable2 --format=...`, a row for each allocation.

    sacct --parsable2 --allusers --starttime 2025-01-01 --format=JobID,User,Account,Partition,\\
        State,ElapsedRaw,Start,End,AllocTRES,AllocCPUS,ConsumedEnergyRaw,ExitCode,JobName

Billed is what was allocated, `gres/gpu:<type>=N` in AllocTRES; two types are two rows. Steps
(.batch, .0) ran inside an allocation and are no rows of their own: only their energy is taken where
the allocation's is empty. Elements of arrays, parts of heterogeneous jobs and each start of a
requeued job are allocations of their own. Times are in the cluster's zone. A job that held no GPU
has no price here, for what a core costs is not known.

A job that Slurm cut off (TIMEOUT, PREEMPTED, REQUEUED) and that one of the same name, user and GPUs
follows within a week is one run with it, whose next job went on where it was: it counts as kept if
the last of them COMPLETED (`sacct_chains`).
sacct quotes nothing: a "|" in JobName, Comment or SubmitLine shifts what follows, and such a row is
left out. A row is known by JobID, start and, but for the first, the type of its GPUs.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benthic.cost.imports.files import shown
from benthic.cost.imports.intake import Intake
from benthic.cost.imports.record import Record, RecordError, clip
from benthic.cost.imports.sacct_chains import CUT, chain
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


def is_part(header: Sequence[str]) -> bool:
    """Whether it is sacct's, but for columns that are missing, or written in a form not read."""
    known = set(map(plain, header))
    return {"jobid", "state"} <= known or _is_json(header) or _is_headless(header)


def _is_json(header: Sequence[str]) -> bool:
    return {"jobs", "errors"} <= set(header)


def _is_headless(header: Sequence[str]) -> bool:
    return len(header) > 3 and any(cell.partition(" ")[0] in (*_ENDS, *_OPEN) for cell in header)


def read(path: Path, intake: Intake) -> None:
    """Take each allocation that has ended. Raises RecordError."""
    sheet = sheet_of(path, overlong=lambda line, _: _leave_shifted(line, intake))
    column = {
        name: sheet.find(name)
        for name in (
            *("JobIDRaw", "JobID", "JobName", "User", "Account", "Partition", "State", "Elapsed"),
            *("ElapsedRaw", "Start", "End", "AllocTRES", "AllocGRES", "AllocCPUS", "NodeList"),
            *("ConsumedEnergyRaw", "ExitCode", "SubmitLine"),
        )
    }
    _check(sheet, column, intake)
    jobs: dict[str, list[tuple[str, dict[str, str]]]] = {}
    steps: dict[str, list[_Step]] = {}
    for line, cells in sheet.rows:
        where = sheet.where(line)
        with intake.row():
            job = pick(cells, column["JobID"]) or pick(cells, column["JobIDRaw"])
            if not job:
                raise RecordError(f"{where} has no JobID: export it again")
            job, dot, step = job.partition(".")
            if dot:
                start, energy = (pick(cells, column[n]) for n in ("Start", "ConsumedEnergyRaw"))
                steps.setdefault(job, []).append(_Step(step, start, _joules(energy, where)))
                continue
            cell = {name: pick(cells, index) for name, index in column.items()}
            jobs.setdefault(job, []).append((where, cell))
    found: list[list[Record]] = []
    for job, starts in jobs.items():
        own = _by_start([cell["Start"] for _, cell in starts], steps.get(job, []))
        for (where, cell), inside in zip(starts, own, strict=True):
            with intake.row():
                found.append(list(_records(cell, job, inside, where, intake)))
    chain([records for records in found if records], intake, named=column["JobName"] is not None)
    for record in (record for records in found for record in records):
        with intake.row():
            intake.add(record)
    for job in steps:
        if job not in jobs:
            intake.leave("only their steps are here", "export whole jobs with sacct", job)


class _Step(NamedTuple):
    name: str
    """batch, extern, interactive or a number"""
    start: str
    joules: float


def _by_start(starts: list[str], steps: list[_Step]) -> list[list[_Step]]:
    """The steps of each start of a job: the latest that is not after them, in the same writing."""
    found: list[list[_Step]] = [[] for _ in starts]
    order = sorted(range(len(starts)), key=starts.__getitem__)
    sorted_starts = [starts[place] for place in order]
    for step in steps:
        found[order[max(0, bisect_right(sorted_starts, step.start) - 1)]].append(step)
    return found


def energy_of(steps: Sequence[tuple[str, float]]) -> float:
    """Joules of a job by its steps' names and joules.

    A step's figure is that of its whole nodes, so steps at the same time hold the same joules and
    must not be added: the extern step lasts as long as the job on all of its nodes, and counts
    alone. That is how slurmctld fills the job's own row under PrologFlags=Contain; without an
    extern step it adds up all (src/slurmctld/step_mgr.c, _internal_step_complete).
    """
    if extern := max((joules for name, joules in steps if name == "extern"), default=0.0):
        return extern
    # Slurm would count the first node twice: the batch step lasts while the numbered ones follow
    # one another, and figures of one node are the same (4.58 MJ, 4.58 MJ and 4.57 MJ of job, batch
    # and step 0 in ARCHER2's documentation, docs/user-guide/energy.md).
    scripts = [joules for name, joules in steps if name in ("batch", "interactive")]
    return max(*scripts, sum(j for name, j in steps if name.isdecimal()), 0.0)


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
    header = sheet.header
    if _is_json(header) or _is_headless(header):
        what = "sacct's JSON, which is not read" if _is_json(header) else "without names of columns"
        raise RecordError(
            f"{shown(sheet.path)} is {what}: write it with sacct --parsable2, and without --json "
            "and --noheader"
        )
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


def _records(
    cell: dict[str, str], job: str, steps: list[_Step], where: str, intake: Intake
) -> Iterator[Record]:
    """A record for each kind of GPU that the job held; none of one that is left out."""
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
    joules, source = _joules(cell["ConsumedEnergyRaw"], where), "Slurm: ConsumedEnergyRaw"
    if not joules:
        joules = energy_of([(step.name, step.joules) for step in steps])
        source += " of its steps"
    held = gpus(cell["AllocTRES"], cell["AllocGRES"])
    known = bool(cell["AllocTRES"] or cell["AllocGRES"])
    cores = whole(cell["AllocCPUS"], where, "AllocCPUS") if cell["AllocCPUS"] else 0
    notes = [
        f"partition {cell['Partition']}" if cell["Partition"] else "",
        "" if state in _ENDS and state not in CUT else f"Slurm's state {state}",
        f"{cores} cores" if cores and not held else "",
    ]
    kinds: list[tuple[str, int | None]] = [*held] or [("", 0 if known else None)]
    for place, (device, count) in enumerate(kinds):
        yield Record(
            where=where,
            key=(job, start.key, *([device] if place else [])),
            run=job,
            name=name,
            started=start.unix,
            seconds=seconds,
            status=status,
            device=device,
            count=count,
            project_else=cell["Account"],
            user=cell["User"],
            host=cell["NodeList"],
            command=cell["SubmitLine"],
            exit_code=_exit_code(cell["ExitCode"]),
            joules=joules / max(1, len(held)),
            energy_source=f"{source}, of whole nodes" if joules else "not known",
            note=", ".join(filter(None, notes)),
            kept=seconds if state in CUT else None,
        )


def gpus(tres: str, gres: str = "") -> list[tuple[str, int]]:
    """Type and count of each kind of GPU held; a count without a type repeats those with one."""
    found = [(kind, int(count)) for kind, count in _GPUS.findall(tres)]
    found = found or [(kind, int(count)) for kind, count in _OLD_GPUS.findall(gres)]
    typed = [(kind, count) for kind, count in found if kind and count]
    plain_count = max((count for kind, count in found if not kind), default=0)
    rest = plain_count - sum(count for _, count in typed)
    return typed + ([("", rest)] if rest > 0 else [])


def _joules(text: str, where: str) -> float:
    joules = number(text, where, "ConsumedEnergyRaw") if text else 0.0
    return joules if 0 < joules < _NO_ENERGY else 0.0


def _exit_code(text: str) -> int | None:
    code, _, signal = clip(text, 20).partition(":")
    if not code.isdecimal():
        return None
    return 128 + int(signal) if signal.isdecimal() and int(signal) else int(code)
