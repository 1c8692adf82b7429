"""`benthic plan`: words of the command line to a question, and its answer to the terminal."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benthic.cost import units
from benthic.cost.catalog import Catalog, CostError, Gpu, load
from benthic.cost.layout import Layout, Precision, parse
from benthic.cost.plan import Question, plan, sizes
from benthic.cost.read_shape import shape
from benthic.cost.shape import Shape
from benthic.cost.widths import from_numbers
from benthic.hub.config import preset, presets
from benthic.hub.files import CONFIG_LIMIT, read_json

_COUNTED = ("params", "active")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line; empty where nothing was given."""

    config: str
    numbers: Mapping[str, Any]
    gpu: str
    gpus: int | None
    tokens: str
    days: str
    budget: str
    compare: str
    seq: int | None
    batch: str
    layout: str
    precision: str
    rent: str
    date: str
    pace: str
    prices: tuple[Path, ...]


def ask(asked: Asked, *, why: bool, as_json: bool) -> int:
    """Print the answer and return the exit code; CostError for what cannot be asked."""
    from benthic.cost import page, plan_page

    catalog = load(asked.prices)
    if asked.compare:
        names = [name.strip() for name in asked.compare.split(",") if name.strip()]
        plans = [plan(question(replace(asked, gpu=name), catalog), catalog) for name in names]
        if as_json:
            print(json.dumps([plan_page.to_dict(one) for one in plans], indent=1))
        else:
            page.print_page(plan_page.compared(plans))
        return 0
    if not asked.config and not asked.numbers:
        found = sizes(question(asked, catalog), catalog)
        if as_json:
            made = [{"ratio": s.ratio, "for": s.about} | plan_page.to_dict(s.plan) for s in found]
            print(json.dumps(made, indent=1))
        else:
            page.print_page(plan_page.largest(found))
        return 0
    one = plan(question(asked, catalog), catalog)
    if as_json:
        print(json.dumps(plan_page.to_dict(one), indent=1))
    else:
        page.print_page(plan_page.story(one, catalog, why=why))
    return 0


def question(asked: Asked, catalog: Catalog) -> Question:
    """What is asked, in numbers; CostError names the figure that cannot be."""
    gpu = catalog.gpu(asked.gpu)
    network, released = _network(asked)
    precision = _precision(asked.precision, gpu, released)
    layout = _layout(asked, precision)
    if asked.gpus is not None and not 1 <= asked.gpus <= 10**6:
        raise CostError(f"--count is {asked.gpus}: give 1 to 1,000,000 GPUs")
    if asked.seq is not None and not 1 <= asked.seq <= 10**7:
        raise CostError(f"--seq is {asked.seq}: give 1 to 10,000,000 tokens")
    return Question(
        shape=network,
        gpu=gpu.name,
        gpus=asked.gpus if layout is None or asked.gpus else layout.gpus,
        tokens=units.count(asked.tokens, "tokens") if asked.tokens else None,
        days=units.duration(asked.days, "--days") / 86400 if asked.days else None,
        budget=units.money(asked.budget) if asked.budget else None,
        seq=asked.seq,
        precision=precision,
        layout=layout,
        batch=units.count(asked.batch, "--batch-tokens", high=1e10) if asked.batch else None,
        rent=rent_of(asked.rent),
        date=asked.date or None,
        pace=units.count(asked.pace, "--pace", low=1e-3, high=1e9) if asked.pace else None,
    )


def _network(asked: Asked) -> tuple[Shape, bool]:
    """The network, and whether it was released in fp8."""
    if asked.config and asked.numbers:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in asked.numbers)
        raise CostError(f"{asked.config!r} names a network and so do {named}: leave one of them")
    if asked.config:
        return shape(asked.config), _in_fp8(asked.config)
    numbers: dict[str, Any] = {
        name: units.count(value, "params") if name in _COUNTED else value
        for name, value in asked.numbers.items()
    }
    if not numbers:
        numbers = {"params": 1e9}  # replaced by each size that is tried
    made, _ = from_numbers(**numbers)
    return made, False


def _in_fp8(source: str) -> bool:
    """Whether a preset, or the config.json of a folder, holds its weights in FP8."""
    name, path = source.strip().lower(), Path(source)
    if name in presets():
        return preset(name)[1] is not None
    file = path / "config.json" if path.is_dir() else path
    if file.suffix != ".json" or not file.exists():
        return False
    return "fp8" in str(read_json(file, limit=CONFIG_LIMIT).get("quantization_config"))


def _precision(named: str, gpu: Gpu, released: bool) -> Precision:
    if named == "auto":
        return "fp8" if released and gpu.fp8_flops else "bf16" if gpu.has_bf16 else "fp16"
    return named  # type: ignore[return-value]


def _layout(asked: Asked, precision: Precision) -> Layout | None:
    if not asked.layout:
        return None
    layout = parse(asked.layout, asked.gpus)
    return replace(layout, precision=precision) if layout.precision == "bf16" else layout


def rent_of(text: str) -> float | None:
    if not text:
        return None
    dollars = units.money(text.removesuffix("/h"), "--rent")
    if dollars > 1000:
        raise CostError(f"--rent is {text}: give US dollars an hour of one GPU, up to 1000")
    return dollars
