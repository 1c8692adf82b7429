"""What machines and software reach: the constants of `benthic.cost.step.speed`.

`catalog/speed_constants.csv` holds them with range, source and date; rows named unfused.* take over
for the software of 2022. A user's file of prices does not reach them, since the fitted ones hold
together: `benthic plan --pace` takes a measured rate of the user's.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

from benthic.cost.catalog.figures import Figure, cells_of, quoted
from benthic.cost.catalog.load import CostError

FILE = Path(__file__).parents[1] / "catalog" / "speed_constants.csv"


@dataclass(frozen=True)
class Constants:
    """What a machine and its software reach; meanings and sources are in the file of the rows."""

    matmul: float
    fp8_matmul: float
    grouped: float
    flash: float
    memory: float
    misaligned: float
    launch: float
    kernel: float
    kernels_forward: float
    kernels_backward: float
    blend: float
    collective: float
    scale_up: float
    scale_out: float
    startup: float
    pcie: float
    network: float
    stream_bytes: float
    logit_bytes: float
    optimizer_bytes: float
    step: float
    tensor_hidden: float
    expert_hidden: float
    data_hidden: float
    pipeline_hidden: float
    processors: float
    bubble: float
    balance: float
    imbalance: float
    nodes_a_token: float


@lru_cache(maxsize=8)
def load_constants(software: str = "fused") -> Constants:
    """The shipped constants. `software` is "fused" (flash attention, fused kernels, communication
    behind work) or "unfused" (Megatron-DeepSpeed as it was in 2022)."""
    if software not in ("fused", "unfused"):
        raise CostError(f"software is {software!r}: choose fused or unfused")
    return Constants(**{name: row[0] for name, row in _rows(software).items()})


def ends(constants: Constants) -> list[Constants]:
    """The constants with one of them at an end of its range, as far from it as in the file."""
    rows = _rows("fused" if constants.flash else "unfused")
    found = []
    for name, (middle, *both) in rows.items():
        value = getattr(constants, name)
        for end in both:
            if end != middle:
                found.append(replace(constants, **{name: value * end / middle}))
    return found


@lru_cache(maxsize=8)
def figures(prefix: str) -> dict[str, float]:
    """Values of the rows whose key begins so, by the rest of it."""
    return {
        key.removeprefix(prefix): row.value
        for key, row in shipped().items()
        if key.startswith(prefix)
    }


@lru_cache(maxsize=1)
def shipped() -> dict[str, Figure]:
    """The rows of the file by key; their units are the step's own, not the catalog's."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return {
            row["key"]: Figure(
                key=row["key"],
                value=float(row["value"]),
                low=float(row["low"]),
                high=float(row["high"]),
                unit=row["unit"],
                source=row["source"],
                date=row["date"],
                confidence=row["confidence"],
                note=row["note"],
            )
            for row in csv.DictReader(file)
        }


def used(gpu: str) -> list[Figure]:
    """The rows that a plan on the GPU of that name takes; a user's own has no reach here."""
    names = [field.name for field in fields(Constants)]
    names += [f"reach.{gpu.lower()}", *(key for key in shipped() if key.startswith("practice."))]
    return [shipped()[name] for name in names if name in shipped()]


def refuse(files: Iterable[Path]) -> None:
    """CostError where a user's file of figures holds a row of this one, or none at all."""
    for path in files:
        rows = list(cells_of(path, ("key", "value", "unit")))
        if not rows:
            raise CostError(f"{path} has no row below its header: give one figure at least")
        for line, cells in rows:
            if (key := cells["key"].strip().lower()) in shipped():
                raise CostError(
                    f"{path}, line {line}: {quoted(key)} is a constant of {FILE.name}, which "
                    "--prices does not change: leave it out, and give benthic plan your own rate "
                    "by --pace"
                )


@lru_cache(maxsize=2)
def _rows(software: str) -> dict[str, tuple[float, float, float]]:
    """Value, low and high by name of constant."""
    found = {}
    for field in fields(Constants):
        row = shipped().get(f"{software}.{field.name}") or shipped()[field.name]
        found[field.name] = row.value, row.low, row.high
    return found
