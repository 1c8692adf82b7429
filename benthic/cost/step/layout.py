"""How a training run is spread over GPUs: the sizes of each kind of parallelism, in one line.

The text form is a row of letters with numbers, "pp16 ep64 dp128 zero1": `parse` reads it and
`describe` writes it. `check` says whether a network divides so, `nearest` finds the closest layout
that does, `candidates` lists the ones worth a look.

Stages of a pipeline may be uneven: `stages` gives each its blocks, the ends, which hold embedding
and head, the fewer; only interleaved stages must be equal. Keys and values with fewer heads than
`tensor` are repeated. The vocabulary is padded, so it always divides. Left out: parallelism of its
own for attention inside a layer of experts, and hybrid sharding.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import gcd, log2
from typing import Literal, get_args

from benthic.cost.catalog.load import CostError
from benthic.cost.network.activations import Recompute
from benthic.cost.network.shape import Shape

Precision = Literal["bf16", "fp16", "fp8", "fp32"]
Optimizer = Literal["adamw", "muon"]

_LETTERS = {
    "dp": "data",
    "tp": "tensor",
    "pp": "pipeline",
    "ep": "expert",
    "cp": "context",
    "zero": "zero",
    "mb": "micro_batch",
    "acc": "micro_batches",
    "vp": "interleave",
}
_CHOICES = {
    "recompute": get_args(Recompute),
    "precision": get_args(Precision),
    "optimizer": get_args(Optimizer),
}
_MOST = 10**7  # GPUs, sequences or parts: anything beyond is a slip of the keyboard


@dataclass(frozen=True)
class Layout:
    """Sizes of parallelism; one copy of the model spans tensor * pipeline * context GPUs."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1  # divides data * context: a layer's experts live within those groups
    context: int = 1
    zero: int = 0  # 0..3, over data * context
    micro_batch: int = 1  # sequences
    micro_batches: int = 1  # per pipeline per step (gradient accumulation)
    interleave: int = 1  # parts of the network that each stage holds
    recompute: Recompute = "selective"
    sequence_parallel: bool = True
    precision: Precision = "bf16"
    optimizer: Optimizer = "adamw"

    @property
    def gpus(self) -> int:
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def batch(self) -> int:
        """Sequences a step."""
        return self.data * self.micro_batch * self.micro_batches

    def describe(self) -> str:
        """The text that `parse` reads: sizes above one, and whatever differs from the defaults."""
        words = []
        for letters, name in _LETTERS.items():
            value = getattr(self, name)
            if value != Layout.__dataclass_fields__[name].default:
                words.append(f"{letters}{value}")
        if self.recompute != "selective":
            words.append(f"recompute-{self.recompute}")
        if not self.sequence_parallel:
            words.append("nosp")
        if self.precision != "bf16":
            words.append(self.precision)
        if self.optimizer != "adamw":
            words.append(self.optimizer)
        return " ".join(words) or "dp1"

    def check(self, shape: Shape, gpus: int, per_node: int) -> None:
        """Whether `shape` divides so over `gpus` GPUs in nodes of `per_node`.

        Raises CostError naming what does not divide, and the nearest layout that does.
        """
        check_sizes(self)
        check_machines(gpus, per_node)
        problem = fault(self, shape, gpus, per_node)
        if problem:
            closest = nearest(self, shape, gpus, per_node)
            raise CostError(f"{problem}: the nearest layout that does is {closest.describe()!r}")


def parse(text: str, gpus: int | None = None) -> Layout:
    """Read "pp16 ep64 dp128 zero1"; without dp, `data` is what is left of `gpus`.

    Further words: mb2 (sequences a micro-batch), acc60 (micro-batches a step), vp2 (interleaved
    parts), recompute-none, -selective or -full, nosp, bf16, fp16, fp8 or fp32, and muon. Raises
    CostError for a word that it does not know, one that comes twice, or a size below one.
    """
    seen: dict[str, int | str | bool] = {}
    for word in re.split(r"[\s,]+", text.strip().lower()):
        name, value = _word(word, text)
        if name in seen:
            raise CostError(f"layout {text!r} sets {name} twice: leave one of the two out")
        seen[name] = value
    layout = replace(Layout(), **seen)  # type: ignore[arg-type]
    check_sizes(layout)
    if gpus is not None and "data" not in seen:
        data, over = divmod(gpus, layout.gpus)
        if over or data < 1:
            raise CostError(
                f"layout {text!r} takes groups of {layout.gpus} GPUs, which do not divide {gpus}: "
                f"use {max(1, data) * layout.gpus} GPUs or smaller groups"
            )
        layout = replace(layout, data=data)
    return layout


def _word(word: str, text: str) -> tuple[str, int | str | bool]:
    match = re.fullmatch(r"([a-z]+)(\d{1,9})", word)
    if match and match[1] in _LETTERS:
        return _LETTERS[match[1]], int(match[2])
    if word in get_args(Precision):
        return "precision", word
    if word in get_args(Optimizer):
        return "optimizer", word
    if word in ("sp", "nosp"):
        return "sequence_parallel", word == "sp"
    mode = word.removeprefix("recompute-")
    if mode != word and mode in get_args(Recompute):
        return "recompute", mode
    known = ", ".join(f"{letters}N" for letters in _LETTERS)
    raise CostError(
        f"layout {text!r} holds {word!r}: the words are {known}, recompute-none|selective|full, "
        "sp, nosp, bf16, fp16, fp8, fp32, adamw and muon, as in 'pp16 ep64 dp128 zero1'"
    )


def check_sizes(layout: Layout) -> None:
    """CostError unless every field alone makes sense."""
    for field in fields(Layout):
        value = getattr(layout, field.name)
        if field.name in _CHOICES:
            choices = _CHOICES[field.name]
            if value not in choices:
                raise CostError(f"{field.name} is {value!r}: choose from {', '.join(choices)}")
        elif field.name == "zero":
            if value not in (0, 1, 2, 3) or isinstance(value, bool):
                raise CostError(f"zero is {value!r}: choose a ZeRO stage, 0 to 3")
        elif field.name != "sequence_parallel":
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not 1 <= value <= _MOST:
                raise CostError(
                    f"{field.name} is {value!r}: it must be a whole number from 1 to {_MOST}"
                )


def check_machines(gpus: int, per_node: int) -> None:
    """CostError unless both are counts of machines that there are."""
    for name, value in (("the number of GPUs", gpus), ("GPUs per node", per_node)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
            raise CostError(f"{name} is {value!r}: it must be a whole number from 1 to {_MOST}")


def stages(shape: Shape, pipeline: int) -> list[int]:
    """Blocks of each stage, prediction blocks (on the last) included; the ends get the fewer."""
    blocks = shape.layers + shape.mtp
    base, extra = divmod(blocks, pipeline)
    order = [*range(1, pipeline - 1), pipeline - 1, 0]  # who takes one more, first to last
    more = set(order[:extra])
    return [base + (stage in more) for stage in range(pipeline)]


def fault(layout: Layout, shape: Shape, gpus: int, per_node: int) -> str:
    """What does not divide, or nothing."""
    text, tensor, pipeline = layout.describe(), layout.tensor, layout.pipeline
    if layout.gpus != gpus:
        return f"layout {text!r} takes {layout.gpus} GPUs, not {gpus}"
    if per_node % tensor and tensor % per_node:
        return f"tensor = {tensor} neither divides nor fills nodes of {per_node} GPUs"
    if shape.heads % tensor:
        return f"{shape.heads} heads do not divide by tensor = {tensor}"
    if not shape.latent and shape.kv_heads % tensor and tensor % shape.kv_heads:
        return f"{shape.kv_heads} heads of keys and values do not divide by tensor = {tensor}"
    for name, width, there in (
        ("feed-forward width", shape.ffn, shape.moe_layers < shape.layers),
        ("expert width", shape.expert_ffn, shape.moe_layers > 0),
    ):
        if there and width % tensor:
            return f"{name} {width} does not divide by tensor = {tensor}"
    if pipeline * layout.interleave > shape.layers:
        return (
            f"{shape.layers} layers are fewer than the {pipeline * layout.interleave} stages of "
            f"pipeline = {pipeline} with interleave = {layout.interleave}"
        )
    if layout.interleave > 1:
        if pipeline == 1:
            return f"interleave = {layout.interleave} needs a pipeline, and pipeline is 1"
        if shape.layers % (pipeline * layout.interleave):
            return (
                f"{shape.layers} layers do not divide by pipeline * interleave = "
                f"{pipeline * layout.interleave}"
            )
    if layout.expert > 1 and not shape.moe_layers:
        return f"{shape.name} has no experts to spread over expert = {layout.expert}"
    if layout.expert > 1 and shape.experts % layout.expert:
        return f"{shape.experts} experts do not divide by expert = {layout.expert}"
    if layout.data * layout.context % layout.expert:
        return (
            f"data * context = {layout.data * layout.context} does not divide by "
            f"expert = {layout.expert}"
        )
    return ""


def nearest(layout: Layout, shape: Shape, gpus: int, per_node: int) -> Layout:
    """The layout on `gpus` GPUs that divides and differs least, counting doublings of sizes."""
    interleaved = {1, layout.interleave}
    found: tuple[float, Layout] | None = None
    for tensor in _divisors(gpus):
        for pipeline in _divisors(gpus // tensor):
            if pipeline > shape.layers or shape.heads % tensor:
                continue
            for context in _divisors(gpus // tensor // pipeline):
                data = gpus // tensor // pipeline // context
                wide = gcd(shape.experts, data * context) if shape.moe_layers else 1
                for expert in _divisors(wide):
                    for interleave in interleaved:
                        tried = replace(
                            layout,
                            data=data,
                            tensor=tensor,
                            pipeline=pipeline,
                            context=context,
                            expert=expert,
                            interleave=interleave,
                        )
                        away = distance(layout, tried)
                        if found and away >= found[0]:
                            continue
                        if not fault(tried, shape, gpus, per_node):
                            found = away, tried
    assert found is not None  # data = gpus alone always divides
    return found[1]


def distance(one: Layout, other: Layout) -> float:
    """How far two layouts are apart: doublings of sizes, and a step for each other setting."""
    sizes = ("tensor", "pipeline", "context", "expert", "data", "interleave", "micro_batch")
    away = sum(abs(log2(getattr(one, name) / getattr(other, name))) for name in sizes)
    away += 0.5 * abs(one.zero - other.zero)
    modes = get_args(Recompute)
    away += abs(modes.index(one.recompute) - modes.index(other.recompute))
    away += (one.precision != other.precision) + (one.optimizer != other.optimizer)
    return away + (one.sequence_parallel != other.sequence_parallel)


def candidates(
    shape: Shape,
    gpus: int,
    per_node: int,
    *,
    seq: int = 0,
    precision: Precision = "bf16",
    optimizer: Optimizer = "adamw",
) -> Iterator[Layout]:
    """Layouts worth a look, each of which divides; fewer than 5,000, whatever the GPUs.

    Tensor parallelism stays within a node, up to 8; pipelines are powers of two or divide the
    layers, up to 64 stages; experts spread over powers of two (or whatever divides, if none does).
    ZeRO-2 and 3 come without a pipeline only, where gradients are not gathered once a
    micro-batch. Context parallelism comes with a `seq` above 16,384 tokens, parts of at least
    8,192. `micro_batches` is four a stage of the pipeline: set it from the batch.
    """
    check_machines(gpus, per_node)
    contexts = [1, *[c for c in (2, 4, 8, 16) if seq >= 8192 * c and seq > 16384][-2:]]
    for tensor in _powers(gcd(gpus, per_node), 8):
        for context in contexts:
            if gpus % (tensor * context):
                continue
            for pipeline in _pipelines(shape, gpus // tensor // context):
                data = gpus // tensor // context // pipeline
                for expert in _expert_groups(shape, data * context):
                    one = Layout(
                        data=data,
                        tensor=tensor,
                        pipeline=pipeline,
                        expert=expert,
                        context=context,
                        precision=precision,
                        optimizer=optimizer,
                        micro_batches=4 * pipeline if pipeline > 1 else 1,
                    )
                    if not fault(one, shape, gpus, per_node):
                        yield from _settings(one)


def _settings(layout: Layout) -> Iterator[Layout]:
    shared = layout.data * layout.context > 1
    if not shared:
        stages_of_zero: tuple[int, ...] = (0,)
    elif layout.pipeline > 1:
        stages_of_zero = (1,)
    else:
        stages_of_zero = (0, 1, 2, 3) if layout.context == 1 else (1, 3)
    for zero in stages_of_zero:
        for micro_batch in (1, 2, 4, 8) if layout.context == 1 else (1,):
            for recompute in get_args(Recompute):
                yield replace(layout, zero=zero, micro_batch=micro_batch, recompute=recompute)


def _pipelines(shape: Shape, most: int) -> list[int]:
    return [p for p in _divisors(most) if p <= min(shape.layers, 64)]


def _expert_groups(shape: Shape, most: int) -> list[int]:
    """One, and the ten widest that divide, powers of two first."""
    if not shape.moe_layers:
        return [1]
    sizes = sorted(_divisors(gcd(shape.experts, most))[1:], key=lambda e: (e & (e - 1) > 0, -e))
    return [1, *sorted(sizes[:10])]


def _powers(number: int, most: int) -> list[int]:
    return [p for p in (1, 2, 4, 8) if p <= most and number % p == 0]


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})
