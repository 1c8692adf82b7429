"""What Muon takes where AdamW takes next to nothing: products that make each matrix orthogonal.

Muon steps along the momentum of a matrix, made orthogonal by Newton-Schulz: five times X X', its
square, and their product with X, on the shorter side. Embeddings, head, norms and routers stay with
AdamW. Once a step, whatever the batch: a fifth of a step of 4,096 tokens on matrices of 256, a
thousandth of one of millions on matrices of 7,168. State is one moment instead of two.
"""

from dataclasses import dataclass
from functools import lru_cache

from benthic.cost.network.shape import Shape
from benthic.cost.step.ops import Step

ITERATIONS = 5  # Keller Jordan's Muon, and benthic.train.optimizer


@dataclass(frozen=True)
class Muon:
    """Of one step of a whole network: FLOPs of the products, and parameters in matrices."""

    flops: float
    elements: float


@lru_cache(maxsize=64)
def muon(shape: Shape) -> Muon:
    """Counted from the matrices that the network's forward pass names."""
    step = Step(shape, 1, 1, 2, True, "sdpa", "", False)
    step.whole()
    flops = elements = 0.0
    for weight in step.tape.weights:
        if weight.projection:
            short, long = sorted((weight.rows, weight.columns))
            flops += ITERATIONS * weight.count * (4.0 * short * short * long + 2.0 * short**3)
            elements += weight.elements
    return Muon(flops, elements)
