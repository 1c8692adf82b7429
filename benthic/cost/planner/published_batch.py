"""Tokens a step that the very network was published with.

The network is one of the catalog's `run_shapes`: as many blocks of the same width, and the same
parameters, total and active, within a hundredth, so that another vocabulary or a tied head leaves
it what it is. A ramp counts with its end. Networks without a published batch have
`benthic.cost.planner.choose.usual_batch`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from benthic.cost.catalog.load import Catalog
from benthic.cost.network.flops import parameters
from benthic.cost.network.read_shape import from_row
from benthic.cost.network.shape import Shape

_CLOSE = 0.01  # of the parameters


@dataclass(frozen=True)
class Published:
    """A run and its tokens a step."""

    run: str
    tokens: int


def published_batch(shape: Shape, catalog: Catalog) -> Published | None:
    """The batch of the first run of the network in the table; None where it has none."""
    for row in catalog.table("run_shapes"):
        alike = (row["layers"], row["hidden"]) == (str(shape.layers), str(shape.hidden))
        if alike and row["global_batch_tokens"] and same_parameters(shape, row):
            return Published(row["model"], int(row["global_batch_tokens"]))
    return None


def same_parameters(shape: Shape, row: Mapping[str, str]) -> bool:
    """Whether the network has those of a row of `run_shapes`, total and active."""
    here, there = parameters(shape), parameters(from_row(row))
    return all(abs(here[n] / there[n] - 1) < _CLOSE for n in ("total", "active"))
