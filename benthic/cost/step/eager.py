"""The peak of one training step on one device in eager PyTorch, by walking through the step.

`benthic.cost.step.ops` writes the step down as the operations that `transformers` or Benthic run,
`benthic.cost.step.tape` plays them: what lives at every moment of forward, backward and optimizer.

Where eager differs from fused training (`benthic.cost.step.memory`): no master weights, since all
of a parameter's state has its dtype; RMSNorm keeps its input, in fp32, and the normed values apart
from their product with the weight; SiLU's output is kept beside its input; logits live three times
over in fp32 while the loss is differentiated; attention whose values are narrower than its keys
leaves the fused kernel and keeps the square of scores, as attention written in Python always does;
experts gather tokens, weigh and scatter them in copies; the optimizer takes temporaries.

Counted is what tensors hold on a CPU: not Python, libraries and the heap's holes, some hundred MB.
Left out: autocast, checkpointing, experts in a loop, sliding windows.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from benthic.cost.catalog.load import CostError
from benthic.cost.network.shape import Shape
from benthic.cost.step.ops import Activation, Attention, Step
from benthic.cost.step.tape import Weight

Implementation = Literal["transformers", "benthic"]
_SIZES = {"fp32": 4, "bf16": 2}
_MOST = 10**8


@dataclass(frozen=True)
class Peak:
    """Bytes at the step's peak, and `moment`: forward, backward or optimizer. `activations` is
    what autograd keeps at the end of forward, gradients and weights not counted."""

    total: float
    moment: str
    weights: float
    optimizer: float
    activations: float


def single_device(
    shape: Shape,
    batch: int,
    seq: int,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    optimizer: Literal["adamw", "muon"] = "adamw",
    implementation: Implementation = "transformers",
    attention: Attention = "sdpa",
    activation: Activation = "",
    dropout: bool = False,
    hold_logits: bool = False,
    parts: int = 1,
    foreach: bool = False,
) -> Peak:
    """Peak bytes of a training step after the first, of `parts` times `batch` rows of `seq` tokens.

    `precision` is the dtype of weights, gradients, moments and activations alike. `transformers`:
    `model(input_ids=x, labels=x).loss.backward()` in training mode with the cache it makes, and
    torch's AdamW, one tensor at a time as on a CPU, or `foreach`, all at once as on a GPU;
    `hold_logits` if the model's whole output is kept over backward. `activation` by its name in a
    config.json, where not gated; empty: GPT-2's with learned positions, else one that keeps its
    input. `dropout`: GPT-2's, where GPT-2 has it. `benthic`: `train_step` with document masks, in
    fp32, one part after the other, whose gradients are summed after each; its AdamW, or Muon for
    matrices. Raises CostError for sizes and choices that cannot be.
    """
    _check(
        *(shape, batch, seq, parts, precision, optimizer, implementation, attention, activation),
        dropout,
    )
    size = _SIZES[precision]
    benthic = implementation == "benthic"
    step = Step(shape, batch, seq, size, benthic, attention, activation, dropout)
    logits = step.whole()
    tape = step.tape
    weights = float(sum(w.elements for w in tape.weights) * size)
    matrices = [w for w in tape.weights if w.projection] if optimizer == "muon" else []
    state = 2 * weights - size * sum(w.elements for w in matrices)
    static = weights + state + step.tables()
    forward, backward, kept, end = tape.peak(
        static, size, logits if hold_logits else None, again=parts > 1 and not benthic
    )
    if benthic and parts > 1:  # the sum of the parts before, beside this part's own
        forward, backward = forward + weights, backward + weights
    if foreach:  # the roots of all second moments
        passing = weights
    elif benthic:
        passing = _benthic_optimizer(tape.weights, matrices, size)
    else:  # the root of a second moment and its quotient, of the largest parameter
        passing = 2.0 * size * max(w.elements for w in tape.weights)
    moments = {"forward": forward, "backward": backward, "optimizer": end + passing}
    if backward == forward:
        del moments["backward"]
    moment = max(moments, key=lambda m: moments[m])
    return Peak(moments[moment], moment, weights, state, kept)


def _benthic_optimizer(weights: list[Weight], matrices: list[Weight], size: int) -> float:
    """Temporaries: of Muon per group of equal matrices four copies (the step ahead, flat; an
    iterate, the next) and two squares each; of AdamW one copy of all that it takes."""
    groups: dict[tuple[int, int], int] = {}
    for w in matrices:
        groups[w.rows, w.columns] = groups.get((w.rows, w.columns), 0) + w.count
    most = max(
        (n * (4.0 * r * k + 2 * min(r, k) ** 2) for (r, k), n in groups.items()), default=0.0
    )
    elements = sum(w.elements for w in weights) - sum(w.elements for w in matrices)
    return size * max(most, float(elements))


def _check(
    shape: Shape,
    batch: int,
    seq: int,
    parts: int,
    precision: str,
    optimizer: str,
    implementation: str,
    attention: str,
    activation: str,
    dropout: bool,
) -> None:
    for name, count in (("the batch", batch), ("the sequence", seq), ("parts", parts)):
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST:
            raise CostError(f"{name} is {count!r}: it must be a whole number from 1 to {_MOST}")
    for name, value, choices in (
        ("precision", precision, tuple(_SIZES)),
        ("optimizer", optimizer, ("adamw", "muon")),
        ("implementation", implementation, get_args(Implementation)),
        ("attention", attention, get_args(Attention)),
        ("activation", activation, get_args(Activation)),
    ):
        if value not in choices:
            raise CostError(
                f"{name} is {value!r}: choose from {', '.join(c for c in choices if c)}"
            )
    if shape.learned_positions and seq > shape.max_positions:
        raise CostError(
            f"a sequence of {seq} tokens exceeds the {shape.max_positions} learned positions of "
            f"{shape.name}: shorten it"
        )
    if implementation == "benthic" and (precision != "fp32" or dropout or attention != "sdpa"):
        raise CostError("Benthic trains in fp32 without dropout: leave those options out")
    if implementation != "benthic" and optimizer != "adamw":
        raise CostError(f"optimizer {optimizer!r} is Benthic's own: use adamw with transformers")
