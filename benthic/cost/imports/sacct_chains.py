"""Jobs of Slurm that are one run: those that its limit of time or its queue cut into pieces.

Long training is a chain of jobs: each is cut off at the limit of its partition, or for a job of
higher priority, and the next goes on from the last checkpoint. Slurm records no such link. Taken
for one is a job of the same name, user and GPUs that starts within a week after one was cut off;
without names only a job that was put back into the queue under its own number. Where several are
open it goes on with the one that was cut off first. Any other end, well or not, closes the chain.

What came after the last checkpoint is not known, so all of a job that was cut off counts as kept,
if the last job of its chain ended well; `Intake` is told so.
"""

from collections.abc import Sequence

from benthic.cost.imports.intake import Intake
from benthic.cost.imports.record import Record

CUT = frozenset({"TIMEOUT", "PREEMPTED", "REQUEUED"})
_WAIT = 7 * 86_400.0  # seconds in the queue, at most


def chain(jobs: Sequence[list[Record]], intake: Intake, *, named: bool) -> None:
    """Give each job that goes on with an earlier one the run and the attempt of that.

    `jobs`: a record for each kind of GPU of a job, with `kept` where it was cut off; `named`: they
    bear names of their own.
    """
    cut_off: dict[tuple[object, ...], list[Record]] = {}
    linked = 0
    for records in sorted(jobs, key=lambda records: records[0].started):
        first = records[0]
        held = tuple((record.device, record.count) for record in records)
        alike = cut_off.setdefault((first.name, first.user, held), [])
        before = next((one for one in alike if 0 <= first.started - _end(one) <= _WAIT), None)
        if before is not None:
            alike.remove(before)
            linked += 1
            for record in records:
                record.run, record.attempt = before.run, before.attempt or before.key
        if first.kept is not None:
            alike.append(first)
    if linked:
        intake.assume(
            "Jobs that Slurm cut off and that one of the same name, user and GPUs followed within "
            "a week are one run, all of it kept if its last job ended well: put right with "
            "'benthic cost amend ID --set seconds_productive=0' what began anew."
        )
    if not named and any(cut_off.values()):
        intake.assume(
            "Jobs that Slurm cut off count as lost, since without JobName none is seen that went "
            "on with them: export JobName, or put right with 'benthic cost amend ID --set "
            "status=done' what was resumed."
        )


def _end(record: Record) -> float:
    return record.started + record.seconds
