"""What somebody disclosed of the very run that is planned: the same network on the same GPU.

The catalog's runs are compared by parameters, total and active, and by the GPU's name. Hours of
other tokens go in proportion. A plan leans on such a run most, so that it comes near is no proof:
`benchmarks/plan_runs.py` leaves each run out.
"""

from dataclasses import dataclass

from benthic.cost.catalog.load import Catalog
from benthic.cost.planner.plan import Plan
from benthic.cost.planner.published_batch import same_parameters


@dataclass(frozen=True)
class Disclosed:
    """`hours` are GPU-hours of the plan's tokens; the run itself had `tokens`."""

    run: str
    hours: float
    tokens: float


def disclosed(plan: Plan, catalog: Catalog) -> list[Disclosed]:
    """Every run of the catalog that is the plan's, oldest first."""
    widths = {row["model"]: row for row in catalog.table("run_shapes")}
    found = []
    for row in sorted(catalog.table("runs"), key=lambda row: row["date"]):
        if not row["tokens_t"] or not row["gpu_hours"] or row["model"] not in widths:
            continue
        gpu = catalog.gpu_name(row.get("gpu_exact") or row["gpu"])
        if gpu == plan.gpu.name and same_parameters(plan.question.shape, widths[row["model"]]):
            tokens = float(row["tokens_t"]) * 1e12
            hours = float(row["gpu_hours"]) * plan.tokens / tokens
            found.append(Disclosed(row["model"], hours, tokens))
    return found
