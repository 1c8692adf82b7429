"""`benthic doctor`: what this machine can do, measured where it is quick, and what is missing.

One line each for the machine, memory, disk, products a second, experts' grouped products against
their loop, GPU, text, energy counters and the ledger. The exit code is 1 where the laptop recipe
could not run; what is merely optional is named with what it is for.
"""

import shutil
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rich.console
import torch
from rich.table import Table

from benthic.cost.ledger.ledger import Ledger, LedgerError, ledger_path
from benthic.cost.metering.rapl import POWERCAP, Rapl
from benthic.data.text import load_corpus
from benthic.folder import machine
from benthic.model.config import ModelConfig
from benthic.model.moe import Experts, experts_reference
from benthic.train.parallel import available_cores

_NEEDED_MEMORY_GIB = 1.5
_NEEDED_DISK_GIB = 0.2


def examine() -> int:
    """Print a line for each thing looked at; 0 if the laptop recipe can run here, else 1."""
    found = machine()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(width=4)
    table.add_column(style="bold")
    table.add_column()
    well = [
        _line(
            table, True, "machine", f"{found['cpu']}, {available_cores()} cores, {found['system']}"
        ),
        _line(
            table,
            found["memory_gib"] == 0 or found["memory_gib"] >= _NEEDED_MEMORY_GIB,
            "memory",
            f"{found['memory_gib']:g} GiB (the laptop recipe takes up to {_NEEDED_MEMORY_GIB} GiB)",
        ),
        _line(
            table,
            free >= _NEEDED_DISK_GIB,
            "disk",
            f"{free:.1f} GiB free here (a laptop run takes up to {_NEEDED_DISK_GIB} GiB)",
        ),
        _line(table, True, "torch", f"{version('torch')}, {_speed():.0f} GFLOP/s in fp32 products"),
        _experts(table),
        _line(table, True, "gpu", _gpu()),
        _text(table),
        _line(table, True, "energy", _energy()),
        _ledger(table),
    ]
    _optional(table, "transformers", "the oracle of the model's tests: pip install 'benthic[dev]'")
    rich.console.Console(highlight=False).print(table)
    return 0 if all(well) else 1


def _line(table: Table, well: bool, what: str, words: str) -> bool:
    table.add_row("[green]ok[/green]" if well else "[red]no[/red]", what, words)
    return well


def _speed() -> float:
    """GFLOP/s of a 1024 x 1024 product, median of five."""
    a, times = torch.randn(1024, 1024), []
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * 1024**3 / sorted(times[1:])[2] / 1e9


def _experts(table: Table) -> bool:
    """Grouped products against their loop, forward, as they run in training."""
    shape = ModelConfig(
        hidden_size=16,
        moe_intermediate_size=8,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
    )
    experts = Experts(shape)
    for p in experts.parameters():
        torch.nn.init.normal_(p)
    x, ids, weight = torch.randn(32, 16), torch.randint(0, 8, (32, 2)), torch.rand(32, 2)
    try:
        gap = (experts(x, ids, weight) - experts_reference(experts, x, ids, weight)).abs().max()
    except RuntimeError as error:
        return _line(table, False, "experts", f"grouped_mm fails ({error}): install torch>=2.11")
    words = f"grouped products equal their loop to {gap.item():.0e}"
    return _line(table, gap.item() < 1e-3, "experts", words)


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none seen by PyTorch; the laptop recipe needs none"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) + " (--set device=cuda)"


def _text(table: Table) -> bool:
    try:
        corpus = load_corpus()
    except ValueError as error:
        return _line(table, False, "text", str(error))
    return _line(
        table, True, "text", f"{corpus.name}: {corpus.files} files, {corpus.bytes / 1e6:.1f} MB"
    )


def _energy() -> str:
    if Rapl.find(POWERCAP):
        return "the processor's counters can be read (RAPL)"
    return "no readable counter: bills carry an estimate with its range, marked as such"


def _ledger(table: Table) -> bool:
    try:
        with Ledger(ledger_path()):
            return _line(table, True, "ledger", str(ledger_path()))
    except LedgerError as error:
        return _line(table, False, "ledger", str(error))


def _optional(table: Table, package: str, otherwise: str) -> None:
    try:
        table.add_row("[green]ok[/green]", package, version(package))
    except PackageNotFoundError:
        table.add_row("[dim]-[/dim]", package, otherwise)
