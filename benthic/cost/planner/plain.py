"""What a plan's step takes on one device in plain PyTorch, beside the planner's tuned training.

The planner's own memory (`benthic.cost.step.memory`) is of mixed precision with fused kernels. Who
trains a small network on one device mostly runs `transformers`, or Benthic, eagerly: this is
`benthic.cost.step.eager` for the plan's sequences and parts, in the precisions that they have.

Counted as on a CPU, where it was measured; AdamW takes all parameters at once where a device can.
Left out, with no figure: more than one device, sliding windows, TPUs (which do not run eagerly),
what a GPU's kernels keep otherwise (transformers' latent attention, Benthic's short sequences), and
Benthic's parts that run side by side on a processor.
"""

from typing import Any, Literal

from benthic.cost.network.shape import Shape
from benthic.cost.page import digits
from benthic.cost.planner.plan import Plan
from benthic.cost.step.eager import Peak, single_device
from benthic.cost.step.memory import CONTEXT, usable

_ONE_BY_ONE = ("EPYC", "Xeon", "M2", "M3")  # devices without PyTorch's grouped kernels
_PROCESSORS = ("EPYC", "Xeon")
_SHORT = 256  # positions up to which Benthic's attention has a way of its own on a CPU


def plain(plan: Plan) -> dict[str, Peak]:
    """Peaks by program and precision, like "transformers fp32"; empty where none is known."""
    shape, layout, name = plan.question.shape, plan.layout, plan.gpu.name
    windowed = shape.windowed_layers and shape.window < plan.seq
    if plan.gpus > 1 or windowed or name.startswith("TPU"):
        return {}
    processor = name.startswith(_PROCESSORS)
    sizes: dict[str, Any] = {"batch": layout.micro_batch, "seq": plan.seq}
    sizes["parts"] = layout.micro_batches
    found = {}
    if layout.optimizer == "adamw" and (processor or shape.head_dim == shape.value_dim):
        precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
        for precision in precisions[: 1 + plan.gpu.has_bf16]:
            found[f"transformers {precision}"] = single_device(
                shape, **sizes, precision=precision, foreach=not name.startswith(_ONE_BY_ONE)
            )
    if _ours(shape) and (layout.micro_batches == 1 if processor else plan.seq > _SHORT):
        found["Benthic fp32"] = single_device(
            shape, **sizes, implementation="benthic", optimizer=layout.optimizer
        )
    return found


def said(plan: Plan) -> list[tuple[str, str]]:
    """The same as a line of the plan's page, or none."""
    peaks, room = plain(plan), usable(plan.gpu)
    if not peaks:
        return []
    over = 0.0 if plan.gpu.name.startswith(_PROCESSORS) else CONTEXT
    listed = ", ".join(
        f"{name} {digits(peak.total / 1e9, 3)} GB{' (does not fit)' * (peak.total + over > room)}"
        for name, peak in peaks.items()
    )
    parts, rows = plan.layout.micro_batches, plan.layout.micro_batch
    text = (
        f"{listed}: eager, all of one precision, nothing computed again, {parts:,} "
        f"part{'s' * (parts > 1)} of {rows:,} sequence{'s' * (rows > 1)} a step. What tensors hold"
    )
    text += f"; CUDA's own, about {over / 1e9:.0f} GB, is on top." if over else "."
    return [("plain PyTorch", text)]


def _ours(shape: Shape) -> bool:
    """Whether Benthic trains such a network: DeepSeek's, or a dense Llama or Qwen."""
    plain = shape.gated and not shape.learned_positions and shape.norm_vectors == 1
    return plain and shape.norms_per_layer == 2 and (shape.latent or not shape.experts)
