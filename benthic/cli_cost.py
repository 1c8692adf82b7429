"""The verbs about money: `benthic plan`, `benthic thrift` and `benthic cost ...`; none needs torch.

Figures are text here, as people write them (14.8T, 30d, $50k); `benthic.cost.network.units` reads
them.
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

TEXT = Annotated[str, arg(metavar="TEXT")]
WHOLE = Annotated[str, arg(metavar="N")]
MAYBE_INT = Annotated[int | None, arg(metavar="N")]
MAYBE_PATH = Annotated[Path | None, arg(metavar="FILE")]
FILES = Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE")]
CONFIG = Annotated[Positional[str], arg(metavar="CONFIG")]


def plan(
    config: CONFIG = "",
    /,
    gpu: TEXT = "",
    count: WHOLE = "",
    tokens: TEXT = "",
    days: TEXT = "",
    budget: TEXT = "",
    compare: TEXT = "",
    seq: WHOLE = "",
    batch_tokens: TEXT = "",
    layout: TEXT = "",
    precision: TEXT = "auto",
    optimizer: TEXT = "adamw",
    rent: TEXT = "",
    date: TEXT = "",
    pace: TEXT = "",
    prices: FILES = (),
    params: TEXT = "",
    active: TEXT = "",
    layers: WHOLE = "",
    hidden: WHOLE = "",
    heads: WHOLE = "",
    kv_heads: WHOLE = "",
    vocab: WHOLE = "",
    ffn: WHOLE = "",
    experts: WHOLE = "",
    experts_per_token: WHOLE = "",
    why: bool = False,
    json: bool = False,
) -> int:
    """Say what training a model takes: days, GPU-hours, energy and money, and how sure that is.

    Args:
        config: a preset, a config.json, a checkpoint's or run's folder, a recipe; or --params
        gpu: its name in the catalog; h100 if not given
        count: GPUs; as many as finish in time if not given
        tokens: to train on, like 14.8T; solved for if --budget or --days is given instead
        days: that the run may take, like 30 or 8h
        budget: US dollars of rent, like 50000 or $5.6M; alone: how large a network it trains
        compare: GPUs to plan the same run on, like h100,h200,b200
        seq: tokens of a sequence
        batch_tokens: tokens of a step, like 4M
        layout: like "pp16 ep64 dp128 zero1"; the fastest that fits if not given
        precision: bf16, fp16, fp8 or fp32; auto: fp8 of a release in it, where the GPU has it
        optimizer: adamw; muon adds products that make matrices orthogonal, and saves a moment
        rent: US dollars a GPU-hour, in place of the catalog's
        date: of the catalog's price, like 2024-12
        pace: tokens a second and GPU that you measured with this network on this GPU
        prices: your own figures, a CSV with key,value,unit; may be given several times
        params: plain numbers in place of a config: parameters, like 70B
        active: parameters that a token meets, like 13B
        layers: blocks
        hidden: width
        heads: of attention
        kv_heads: of keys and values
        vocab: rows of the embedding
        ffn: width of the feed-forward
        experts: in a sparse layer
        experts_per_token: that a token takes
        why: print where each figure comes from
        json: print data instead of a page
    """
    from benthic.cost.network.units import whole
    from benthic.cost.planner.asking import Asked, ask

    widths = {
        **{"layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads},
        **{"vocab": vocab, "ffn": ffn, "experts": experts, "experts_per_token": experts_per_token},
    }
    numbers: dict[str, str | int | None] = {"params": params, "active": active}
    numbers |= {name: whole(text, f"--{name.replace('_', '-')}") for name, text in widths.items()}
    return ask(
        Asked(
            config=config,
            numbers={name: value for name, value in numbers.items() if value not in ("", None)},
            gpu=gpu,
            gpus=whole(count, "--count"),
            tokens=tokens,
            days=days,
            budget=budget,
            compare=compare,
            seq=whole(seq, "--seq"),
            batch=batch_tokens,
            layout=layout,
            precision=precision,
            optimizer=optimizer,
            rent=rent,
            date=date,
            pace=pace,
            prices=prices,
        ),
        why=why,
        as_json=json,
    )


def thrift(
    config: CONFIG = "deepseek-v3",
    /,
    gpu: TEXT = "h800",
    count: WHOLE = "",
    tokens: TEXT = "",
    seq: WHOLE = "",
    context: WHOLE = "",
    speed: TEXT = "",
    by: TEXT = "quality",
    rent: TEXT = "",
    date: TEXT = "",
    prices: FILES = (),
    why: bool = False,
    json: bool = False,
) -> int:
    """Show what each idea of a network saves: latents, experts, FP8, look-ahead, step by step.

    Args:
        config: a preset, a config.json, a folder, or a recipe
        gpu: its name in the catalog
        count: GPUs; as many as finish in 60 days if not given
        tokens: to train on; DeepSeek-V3's 14.8T, or 20 a parameter, if not given
        seq: tokens of a sequence in training
        context: tokens in the cache of a sequence that is served
        speed: tokens a second that a user gets; 20 if not given
        by: the plain model's class: of the same quality, by a rule of thumb, or of the same total
        rent: US dollars a GPU-hour, in place of the catalog's
        date: of the catalog's price, like 2024-12
        prices: your own figures, a CSV with key,value,unit
        why: print where each figure comes from
        json: print data instead of a page
    """
    from benthic.cost.network.units import whole
    from benthic.cost.planner.thrift import show

    return show(
        config,
        gpu=gpu,
        gpus=whole(count, "--count"),
        tokens=tokens,
        seq=whole(seq, "--seq"),
        context=whole(context, "--context"),
        speed=speed,
        by=by,
        rent=rent,
        date=date,
        prices=prices,
        why=why,
        as_json=json,
    )


def deepseek(
    inputs: MAYBE_PATH = None, html: MAYBE_PATH = None, why: bool = False, json: bool = False
) -> int:
    """DeepSeek-V3 as published: the headline, its owner's cost, the programme, the fleet.

    Args:
        inputs: your own copy of the input file, benthic/cost/cases/deepseek.toml
        html: write a page for a browser, too
        why: print each figure's formula and each input's source
        json: print data instead of a page
    """
    from benthic.cost.cases import published

    return published.show(inputs, json=json, html=html, why=why)


def fleet(
    inputs: Annotated[Positional[Path | None], arg(metavar="FILE")] = None,
    /,
    html: MAYBE_PATH = None,
    why: bool = False,
    json: bool = False,
) -> int:
    """What owning machines costs: capital, running, the rate of an hour, break-even against rent.

    Args:
        inputs: a fleet file; the example, benthic/cost/cases/fleet.toml, if not given
        html: write a page for a browser, too
        why: print where each figure comes from
        json: print data instead of a page
    """
    from benthic.cost.cases import fleet as room

    return room.show(inputs, json=json, html=html, why=why)


def runs(
    file: Annotated[Positional[Path | None], arg(metavar="FILE")] = None,
    /,
    json: bool = False,
) -> int:
    """Published training runs with the MFU that they imply; rows that cannot be true are flagged.

    Args:
        file: a table of your own, a CSV with model,active_params_b,tokens_t,gpu,gpu_hours
        json: print data instead of a page
    """
    from benthic.cost.cases import runs as room

    return room.show(file, as_json=json)
