"""Runs of the past, from the files of other tools, as rows for the ledger.

`read(path)` tells by a file's content whose it is: Weights & Biases, Trackio, MLflow, TensorBoard,
Slurm's sacct, or a table of one's own. None of those tools is needed. A file is read to its end
before anything is returned, and `Ledger.add` writes all rows or none; rows that it has are skipped,
so reading a file again, a copy, or a later export that overlaps adds nothing twice.

Rows are final: runs that have not ended are left out until they have. The same work recorded by two
tools is two sets of rows, so import one source for one stretch of work.
"""

from collections.abc import Callable
from pathlib import Path

from benthic.cost.imports import mlflow, sacct, table, tensorboard, trackio, wandb
from benthic.cost.imports.files import SQLITE, database, shown, start_of, walk
from benthic.cost.imports.intake import Found, Intake
from benthic.cost.imports.record import RecordError, clip
from benthic.cost.imports.sheet import sheet_of
from benthic.cost.imports.terms import Terms
from benthic.cost.imports.times import zone_named
from benthic.cost.imports.wandb_log import MAGIC

__all__ = ["Found", "RecordError", "kinds", "read"]

_READERS: dict[str, Callable[[Path, Intake], None]] = {
    "wandb": wandb.read,
    "trackio": trackio.read,
    "mlflow": mlflow.read,
    "tensorboard": tensorboard.read,
    "sacct": sacct.read,
    "table": table.read,
}
_TABLES = (  # the order matters: what a table of one's own may look like comes last
    ("sacct", sacct.is_one),
    ("mlflow", mlflow.is_one),
    ("wandb", wandb.is_one),
    ("trackio", trackio.is_one),
    ("table", table.is_one),
)
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "ZIP", b"\x28\xb5\x2f\xfd": "Zstandard"}


def kinds() -> tuple[str, ...]:
    """The tools whose files can be read."""
    return tuple(_READERS)


def read(
    path: Path,
    *,
    kind: str = "auto",
    price: float | None = None,
    device: str | None = None,
    count: int | None = None,
    project: str = "",
    purpose: str | None = None,
    timezone: str | None = None,
    gap: float = 1800.0,
) -> Found:
    """The runs in a file or folder, as rows; nothing is written.

    What is given fills gaps and never goes before what the file says: `price` in US dollars an hour
    of one device, `device` a name, `count` devices of a run, `project`, `purpose`. A run that held
    no GPU takes no device, count or price. `timezone` is that of times without one. `gap`: seconds
    without a sign of life that are not billed, for tools that record no end. RecordError is one
    sentence on what cannot be read, and where, or up to ten of them, a line each.
    """
    if kind not in ("auto", *_READERS):
        raise RecordError(f"--kind is '{clip(kind, 40)}': choose auto, {', '.join(_READERS)}")
    terms = Terms(
        price=price,
        device=device,
        count=count,
        project=project,
        purpose=purpose,
        zone=zone_named(timezone),
        gap=gap,
    )
    kind = kind_of(path) if kind == "auto" else kind
    if not path.is_dir():
        start_of(path, 1)
    elif kind in ("sacct", "table"):
        raise RecordError(f"{shown(path)} is a folder: give a file")
    intake = Intake(kind, terms)
    with intake.row():  # what ends the file for its reader is told beside what was wrong before
        _READERS[kind](path, intake)
    return intake.found()


def kind_of(path: Path) -> str:
    """Whose file or folder that is, by what it holds. Raises RecordError."""
    if path.is_dir():
        return _kind_of_folder(path)
    start = start_of(path)
    for magic, packer in _PACKED.items():
        if start.startswith(magic):
            raise RecordError(f"{shown(path)} is packed with {packer}: unpack it first")
    if start.startswith(MAGIC):
        return "wandb"
    if start.startswith(SQLITE):
        return _kind_of_database(path)
    if path.name in (wandb.METADATA, wandb.SUMMARY):
        return "wandb"
    if tensorboard.is_one(start) or (tensorboard.is_named(path.name) and b"\0" in start):
        return "tensorboard"
    header = sheet_of(path).header
    for kind, is_one in _TABLES:
        if is_one(header):
            return kind
    if sacct.is_part(header):
        return "sacct"
    if len(header) == 1 and header[0].split()[:1] == ["JobID"]:
        raise RecordError(
            f"{shown(path)} is sacct's output for readers, which cuts values short: write it with "
            "sacct --parsable2"
        )
    raise RecordError(
        f"{shown(path)} has the columns {clip(', '.join(header), 120)}, of "
        f"no tool known here: a table of your own has a run, a start and one of "
        f"{', '.join(table.LENGTHS)}, else name the tool with --kind"
    )


def _kind_of_folder(path: Path) -> str:
    found: dict[str, Path] = {}
    for folder, names in walk(path, skip=frozenset({"artifacts"})):
        for name in names:
            if name in (wandb.METADATA, wandb.SUMMARY) or name.endswith(wandb.LOG):
                found.setdefault("wandb", folder)
            elif name == mlflow.META:
                found.setdefault("mlflow", folder)
            elif tensorboard.is_named(name):
                found.setdefault("tensorboard", folder)
            elif name.endswith(".db") and start_of(folder / name, 16) == SQLITE:
                found.setdefault("trackio", folder)
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise RecordError(
            f"{shown(path)} holds records of {' and '.join(found)}, maybe of the same work: name "
            "one with --kind, or give a folder of one"
        )
    raise RecordError(
        f"{shown(path)} holds no records of wandb, MLflow, TensorBoard or Trackio: give the "
        "folder, or the file, that the tool wrote"
    )


def _kind_of_database(path: Path) -> str:
    with database(path) as connection:
        if mlflow.is_database(connection):
            return "mlflow"
        if trackio.is_database(connection):
            return "trackio"
    raise RecordError(
        f"{shown(path)} is a SQLite file of another program: give mlflow.db or one of "
        "~/.cache/huggingface/trackio/*.db"
    )
