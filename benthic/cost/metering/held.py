"""What a piece of work holds and what that costs: the device, how many, the price, the watts.

Read from flags first, then from the launcher's variables (torchrun, mpirun, srun, sbatch) and the
machine. What is held counts, used or not: all visible GPUs, or as many as there are ranks, and on a
machine without any the machine itself. Of several ranks the first bills for all.

Inside a metered row what was not given is that row's: its device, its price with where that is
from, its count (less where a launcher or CUDA_VISIBLE_DEVICES says less). Another device than the
row's, be it the processor beside its GPUs, is an addition to it, found and priced anew.

The price is the one given, else the outer row's, else the catalog's rent of that GPU, else the
assumption that recipes start from, which says of itself that it is one; nothing is ever free unless
it was said to be.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from benthic.cost.ledger.entries import MAX_COUNT, MAX_PRICE, Billed
from benthic.cost.metering.gpus import Gpus, find

_RANKS = (  # the first that is set counts; LOCAL_RANK alone is what old launchers set
    *("RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", "LOCAL_RANK"),
)
_BUSY_CORE = (2.0, 5.0, 10.0)  # W, least, middle, greatest: 350 W of 64 cores to 170 W of 16
_IDLE_CORE = (0.3, 1.0, 3.0)  # W, its share of an idle machine
_UNKNOWN_GPU = (30.0, 300.0, 1500.0)  # W


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Devices, their price, and the watts to estimate by where no counter can be read."""

    device: str
    count: int
    price: float
    """US dollars an hour, one device"""
    price_source: str
    price_assumed: bool
    gpus: Gpus | None
    """to read; those of this machine, where the device is not known to be another"""
    is_gpu: bool
    watts: tuple[float, float, float] | None
    """least, likely, greatest, of one device; None: by the processor's time"""
    watts_source: str
    warnings: tuple[str, ...] = ()

    def joules(self, seconds: float, cpu_seconds: float) -> tuple[float, float, float]:
        """The estimate, least, likely and greatest."""
        if self.watts:
            low, mid, high = (watts * self.count * seconds for watts in self.watts)
            return low, mid, high
        idle = cores() * seconds
        low, mid, high = (
            self.count * (busy * cpu_seconds + rest * idle)
            for busy, rest in zip(_BUSY_CORE, _IDLE_CORE)
        )
        return low, mid, high


def is_first(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the one of its launch that bills."""
    for name in _RANKS:
        rank = _whole(environ, name, low=0)
        if rank is not None:
            return rank == 0
    return True


def hold(
    *,
    device: str = "",
    count: int | None = None,
    price: float | str | None = None,
    watts: float | None = None,
    outer: Billed | None = None,
    named: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Holding:
    """What the work that starts now holds; `outer`: the row it runs inside; `named`: `device` is
    somebody's word, refused where it has no price, and not what the program found.

    `price` may be text, like $2.10. ValueError names what was given and cannot be.
    """
    price = an_hour(price) if isinstance(price, str) else price
    _within("price", price, 0, MAX_PRICE, "US dollars an hour of one device")
    _within("watts", watts, 0, 1e6, "watts of one device")
    _within("count", count, 1, MAX_COUNT, "devices")
    device = device.strip()
    same = outer is not None and catalogued(device) in ("", catalogued(outer.device))
    outer = outer if same else None
    if outer:
        device = catalogued(outer.device)
    gpus = None if device.lower() == "cpu" else find(environ)
    name = catalogued(device) or (catalogued(gpus.names[0]) if gpus else "cpu")
    is_gpu = name.lower() != "cpu"
    warnings = []
    if gpus and not device and len(set(gpus.names)) > 1:
        kinds = ", ".join(sorted(set(gpus.names)))
        warnings.append(
            f"several kinds of GPU are visible ({kinds}): all are billed as {name}, so set "
            "CUDA_VISIBLE_DEVICES to those of one kind"
        )
    if gpus and gpus.unread_for:
        warnings.append(gpus.unread_for)
    if price is not None:
        charged, source = float(price), "given"
    elif outer:
        charged, source = outer.price_per_hour, outer.price_source
    elif is_gpu:
        charged, source, warning = _rent(name, named=named and bool(device))
        warnings += [warning] if warning else []
    else:
        charged, source = _assumed()
    found = gpus_held(gpus, environ) if is_gpu else machines(environ)
    held = found
    if outer:
        held = min(found, outer.count) if _told(gpus, environ) else outer.count
    draw, draw_source = _watts(name, watts, is_gpu)
    return Holding(
        device=name if is_gpu else processor(),
        count=count or held,
        price=charged,
        price_source=source,
        price_assumed=source.startswith("assumption"),
        gpus=gpus if gpus and is_gpu and not _is_other(name, gpus.names) else None,
        is_gpu=is_gpu,
        watts=draw,
        watts_source=draw_source,
        warnings=tuple(warnings),
    )


def an_hour(price: str) -> float | None:
    """US dollars of a text like 2.10 or $2.10; none where it is empty. ValueError."""
    if not price.strip():
        return None
    try:
        return float(price.strip().removeprefix("$"))
    except ValueError:
        raise ValueError(
            f"price is {price[:40]!r}: give US dollars an hour of one device, like 2.10"
        ) from None


def gpus_held(gpus: Gpus | None, environ: Mapping[str, str]) -> int:
    """How many GPUs: one a rank, but no more than there are; else the allocation's; else visible.

    A launcher that shows each rank only its own GPU is told from many ranks on one by how many the
    machine has.
    """
    ranks = _ranks(environ)
    if ranks:
        world, local = ranks
        there = max(gpus.installed, len(gpus.names)) if gpus else local
        return ceil(world / local) * min(local, there)
    on_node = _whole(environ, "SLURM_GPUS_ON_NODE")
    whole = None if "SLURM_STEP_NUM_NODES" in environ else _whole(environ, "SLURM_GPUS")
    if whole or on_node:
        return whole or (on_node or 1) * machines(environ)
    return len(gpus.names) if gpus else 1


def machines(environ: Mapping[str, str]) -> int:
    """How many machines the launch spans."""
    ranks = _ranks(environ)
    if ranks:
        return ceil(ranks[0] / ranks[1])
    for name in ("SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES"):
        nodes = _whole(environ, name)
        if nodes:
            return nodes
    return 1


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine() or "cpu"


def folder_for(name: str) -> str:
    """Where work of that name lies that has no folder of its own; ValueError if there is none."""
    try:
        return str(Path.cwd() / name.replace("/", "_"))
    except FileNotFoundError:
        raise ValueError(
            "the current folder has been deleted: change to one that exists, and start again"
        ) from None


def _told(gpus: Gpus | None, environ: Mapping[str, str]) -> bool:
    """Whether the environment says that this may be a part of what the outer row holds."""
    by_slurm = any(_whole(environ, f"SLURM_{name}") for name in ("GPUS", "GPUS_ON_NODE"))
    hidden = gpus is not None and len(gpus.names) < gpus.installed
    return by_slurm or hidden or _ranks(environ) is not None


def _ranks(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Ranks in all and on this machine, where a launcher started this process as one of them."""
    for rank, world, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ):
        size = _whole(environ, world)
        if size and rank in environ:
            return size, min(size, _whole(environ, local) or size)
    return None


def _is_other(name: str, seen: Sequence[str]) -> bool:
    """Whether the catalog knows both, and that these GPUs are none of that name."""
    known = [found for found in map(_in_catalog, seen) if found]
    return _in_catalog(name) is not None and bool(known) and name not in known


def catalogued(device: str) -> str:
    """The name that the catalog has for it, so that h100 and H100-SXM are one device in sums; "cpu"
    for this machine's processor, and a name that is not known as it is."""
    if device.lower() in ("", "cpu") or device == processor():
        return "cpu" if device else ""
    return _in_catalog(device) or device


def _in_catalog(device: str) -> str | None:
    from benthic.cost.catalog.load import CostError, load

    try:
        return load().gpu(device).name
    except CostError:
        return None


def _rent(name: str, *, named: bool) -> tuple[float, str, str]:
    """US dollars an hour, where from, and what to warn of."""
    from benthic.cost.catalog.load import CostError, load

    try:
        figure = load().rent(name)
    except CostError as error:
        if named:
            raise ValueError(f"{error}; or give a price") from error
        price, source = _assumed()
        return (
            price,
            f"{source}; the catalog has no rent for {name}",
            f"the catalog has no rent for {name}, so it is billed at ${price:g}/h, which is what a "
            "small machine costs: give a price, or amend price_per_hour of the row later",
        )
    spread = f" ({figure.low:g} to {figure.high:g})" if figure.low < figure.high else ""
    return figure.value, f"catalog: {figure.key}{spread}, {figure.date}, {figure.source}", ""


def _assumed() -> tuple[float, str]:
    from benthic.config import BillConfig

    return BillConfig().price_per_hour, BillConfig().price_source


def _watts(
    name: str, given: float | None, is_gpu: bool
) -> tuple[tuple[float, float, float] | None, str]:
    if given is not None:
        return (given, given, given), f"{given:g} W a device, given"
    if not is_gpu:
        busy, idle = _BUSY_CORE, _IDLE_CORE
        return None, (
            f"{busy[1]:g} W ({busy[0]:g} to {busy[2]:g}) a busy core and "
            f"{idle[1]:g} W ({idle[0]:g} to {idle[2]:g}) for each of {cores()} cores held, "
            "an assumption"
        )
    from benthic.cost.catalog.load import CostError, load

    catalog = load()
    try:
        gpu = catalog.gpu(name)
    except CostError:
        low, mid, high = _UNKNOWN_GPU
        return _UNKNOWN_GPU, (
            f"{mid:g} W ({low:g} to {high:g}), an assumption for a GPU of unknown kind"
        )
    load_of = catalog.figure("avg_power_fraction")
    low, mid, high = (gpu.server_watts * x for x in (load_of.low, load_of.value, load_of.high))
    return (low, mid, high), (
        f"{mid:.0f} W ({low:.0f} to {high:.0f}) a {gpu.name} with its share of the server, "
        "from the catalog"
    )


def _within(name: str, value: object, low: float, high: float, what: str) -> None:
    if value is not None and not (isinstance(value, int | float) and low <= value <= high):
        raise ValueError(f"{name} is {value}: give {what}, {low:g} to {high:g}")


def _whole(environ: Mapping[str, str], name: str, low: int = 1) -> int | None:
    """A whole number of the environment; None where there is none, or no such."""
    text = environ.get(name, "").strip()
    return (
        int(text) if text.isascii() and text.isdigit() and low <= int(text) <= MAX_COUNT else None
    )
