"""`benthic plan`: words of the command line to a question, and its answer to the terminal."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from benthic.cost.catalog.load import Catalog, CostError, Gpu, load
from benthic.cost.network import units
from benthic.cost.network.read_shape import shape
from benthic.cost.network.shape import Shape
from benthic.cost.network.widths import from_numbers
from benthic.cost.planner.basis import RELEASED, Question
from benthic.cost.planner.plan import Plan, plan
from benthic.cost.step.calibrate import refuse
from benthic.cost.step.layout import Layout, Optimizer, Precision, parse
from benthic.hub.config import preset, presets
from benthic.hub.files import CONFIG_LIMIT, read_json, shown

USUAL_GPU = "h100"
MOST_GPUS = 10**6


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
    optimizer: str
    rent: str
    date: str
    pace: str
    prices: tuple[Path, ...]


def ask(asked: Asked, *, why: bool, as_json: bool) -> int:
    """Print the answer and return the exit code; CostError for what cannot be asked."""
    refuse(asked.prices)
    catalog = load(asked.prices)
    _check(asked)
    _answer(asked, catalog, why=why, as_json=as_json)
    tell_unread(catalog)
    return 0


def tell_unread(catalog: Catalog, but: Sequence[str] = ()) -> None:
    """One sentence on stderr where the user's own figures move nothing of what was printed; `but`:
    figures that were read and are not in it."""
    if unread := catalog.unread(but):
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        print(
            f"benthic: --prices sets {', '.join(unread[:5])}{more}, which this answer does not "
            "read: it would be the same without",
            file=sys.stderr,
        )


def _answer(asked: Asked, catalog: Catalog, *, why: bool, as_json: bool) -> None:
    from benthic.cost import page
    from benthic.cost.planner import plan_page, plan_tables

    if asked.compare:
        plans, failed = _elsewhere(asked, catalog)
        if as_json:
            refused = [{"gpu": name, "error": text} for name, text in failed]
            _dump([*(plan_page.to_dict(one, catalog, why=why) for one in plans), *refused])
        else:
            page.print_page(plan_tables.compared(plans, catalog, failed, why=why))
        return
    if not asked.config and not asked.numbers:
        from benthic.cost.planner.sizes import sizes

        asks = question(asked, catalog)
        found = sizes(asks, catalog)
        if as_json:
            data = [plan_page.to_dict(size.plan, catalog, why=why) for size in found]
            _dump([{"ratio": s.ratio, "for": s.about} | d for s, d in zip(found, data)])
        else:
            page.print_page(plan_tables.largest(found, asks, catalog, why=why))
        return
    one = plan(question(asked, catalog), catalog)
    if as_json:
        _dump(plan_page.to_dict(one, catalog, why=why))
    else:
        page.print_page(plan_page.story(one, catalog, why=why))


def _dump(found: Any) -> None:
    print(json.dumps(found, indent=1, allow_nan=False))


def _check(asked: Asked) -> None:
    """What cannot be asked together."""
    named = bool(asked.config or asked.numbers)
    if asked.compare:
        for flag, value in (("--gpu", asked.gpu), ("--rent", asked.rent), ("--pace", asked.pace)):
            if value:
                remedy = "give a price of each in --prices" if flag == "--rent" else "leave it out"
                raise CostError(
                    f"{flag} is of one GPU and --compare names several: {remedy}, or name the GPU "
                    "in --compare alone"
                )
    if not named:
        for flag, value in (
            *(("--compare", asked.compare), ("--layout", asked.layout), ("--pace", asked.pace)),
        ):
            if value:
                raise CostError(
                    f"{flag} is about one network and none is named: give a preset, a config.json, "
                    "or --params"
                )
        if not asked.budget and not asked.days:
            raise CostError(
                "nothing is asked: name a preset, a config.json or --params with --tokens, or give "
                "--budget alone to see how large a network it trains"
            )


def _elsewhere(asked: Asked, catalog: Catalog) -> tuple[list[Plan], list[tuple[str, str]]]:
    """Plans on the GPUs to compare, and why there is none on others; CostError where on none."""
    names = [name.strip() for name in asked.compare.split(",") if name.strip()]
    if not names:
        raise CostError(f"--compare is {asked.compare!r}: name GPUs, like h100,h200,b200")
    plans, failed = list[Plan](), list[tuple[str, str]]()
    for name in dict.fromkeys(names):
        try:
            if catalog.gpu_name(name) not in {one.gpu.name for one in plans}:
                plans.append(plan(question(replace(asked, gpu=name), catalog), catalog))
        except CostError as error:
            failed.append((name, str(error)))
    if not plans:
        raise CostError(failed[0][1])
    return plans, failed


def question(asked: Asked, catalog: Catalog) -> Question:
    """What is asked, in numbers; CostError names the figure that cannot be."""
    if "," in asked.gpu:
        raise CostError(
            f"--gpu is {shown(asked.gpu)}, and a plan is on one: compare several with --compare"
        )
    gpu = catalog.gpu(asked.gpu or USUAL_GPU)
    network, released, said = _network(asked)
    layout = _layout(asked)
    optimizer: Optimizer = units.choice(asked.optimizer, "--optimizer", get_args(Optimizer))  # type: ignore[assignment]
    check_gpus(asked.gpus)
    check_seq(asked.seq)
    named, usual = _precision(asked, gpu), _usual(gpu, released)
    precision = named or usual
    if not named and usual == "fp8":
        said = (*said, RELEASED)
    if layout is not None:
        layout = replace(layout, precision=precision)
        if optimizer == "muon":
            layout = replace(layout, optimizer="muon")
    return Question(
        shape=network,
        gpu=gpu.name,
        gpus=asked.gpus if layout is None or asked.gpus else layout.gpus,
        tokens=units.count(asked.tokens, "tokens") if asked.tokens else None,
        days=_days(asked.days) if asked.days else None,
        budget=units.money(asked.budget) if asked.budget else None,
        seq=asked.seq,
        precision=precision,
        usual=usual,
        optimizer=optimizer,
        layout=layout,
        batch=units.count(asked.batch, "--batch-tokens", high=1e10) if asked.batch else None,
        rent=rent_of(asked.rent),
        date=asked.date or None,
        pace=units.count(asked.pace, "--pace", low=1e-3, high=1e9, like="6200")
        if asked.pace
        else None,
        said=said,
    )


def check_gpus(gpus: int | None) -> None:
    """CostError for a number of GPUs that cannot be."""
    if gpus is not None and not 1 <= gpus <= MOST_GPUS:
        raise CostError(f"--count is {gpus:,}: give 1 to {MOST_GPUS:,} GPUs")


def check_seq(seq: int | None) -> None:
    """CostError for a sequence that cannot be."""
    if seq is not None and not 1 <= seq <= 10**7:
        raise CostError(f"--seq is {seq:,}: give 1 to 10,000,000 tokens")


def _days(text: str) -> float:
    """--days 30 is said in its name; other units are written."""
    units.refuse_either(text, "--days")
    try:
        days = float(text)
    except ValueError:
        days = units.duration(text, "--days") / 86400
    if not 0.001 <= days <= 36500:
        raise CostError(f"--days is {text}: give more than none, and at most a century, like 30")
    return days


def _network(asked: Asked) -> tuple[Shape, bool, tuple[str, ...]]:
    """The network, whether it was released in fp8, and what was assumed of it."""
    if asked.config and asked.numbers:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in asked.numbers)
        raise CostError(f"{asked.config!r} names a network and so do {named}: leave one of them")
    if asked.config:
        found = shape(asked.config)
        return found, in_fp8(asked.config), found.left_out
    numbers: dict[str, Any] = {
        name: units.count(value, name) if name in ("params", "active") else value
        for name, value in asked.numbers.items()
    }
    if not numbers:
        numbers = {"params": 1e9}  # each size that is tried takes its place
    called = asked.numbers.get("params", "").strip().upper()
    if called and "active" in numbers:
        called += f", {asked.numbers['active'].strip().upper()} active"
    made, said = from_numbers(**numbers, name=called)
    return made, False, said


def in_fp8(source: str) -> bool:
    """Whether a preset, or the config.json of a folder, holds its weights in FP8."""
    name, path = source.strip().lower(), Path(source)
    if name in presets():
        return preset(name)[1] is not None
    file = path / "config.json" if path.is_dir() else path
    if file.suffix != ".json" or not file.exists():
        return False
    return "fp8" in str(read_json(file, limit=CONFIG_LIMIT).get("quantization_config"))


def _precision(asked: Asked, gpu: Gpu) -> Precision | None:
    """The one that is named, by flag or in the layout, if the GPU has it; None: none is."""
    words = re.split(r"[\s,]+", asked.layout.strip().lower())
    in_layout = next((word for word in words if word in get_args(Precision)), "")
    flag = units.choice(asked.precision, "--precision", ("auto", *get_args(Precision)))
    flag = "" if flag == "auto" else flag
    if flag and in_layout and flag != in_layout:
        raise CostError(f"--precision is {flag} and --layout says {in_layout}: leave one of them")
    named = flag or in_layout
    if named == "fp8" and not gpu.fp8_flops:
        raise CostError(f"{gpu.name} has no fp8: plan with --precision {_sixteen(gpu)}")
    if named == "bf16" and not gpu.has_bf16:
        raise CostError(f"{gpu.name} has no bf16: plan with --precision fp16")
    return named or None  # type: ignore[return-value]


def _usual(gpu: Gpu, released: bool) -> Precision:
    return "fp8" if released and gpu.fp8_flops else _sixteen(gpu)


def _sixteen(gpu: Gpu) -> Precision:
    return "bf16" if gpu.has_bf16 else "fp16"


def _layout(asked: Asked) -> Layout | None:
    if not asked.layout.strip():
        return None
    layout = parse(asked.layout, asked.gpus)
    if asked.gpus is None and "dp" not in asked.layout.lower() and layout.expert > layout.context:
        raise CostError(
            f"--layout is {asked.layout!r}, whose experts need data parallelism: name dp in it, or "
            "give --count"
        )
    return layout


def rent_of(text: str) -> float | None:
    """US dollars an hour of one GPU, or None where nothing is given."""
    if not text:
        return None
    bare = re.sub(r"(?i)\s*/\s*(gpu-?)?h(our|r)?$", "", text.strip())
    return units.money(bare, "--rent", high=1000, like="2.10")
