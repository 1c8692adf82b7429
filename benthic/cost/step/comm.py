"""Seconds that collectives take: a start-up per hop, and bytes over the narrowest link on the way.

A group has `size` members, `inside` of them on each node; groups nest in the order tensor, context,
data, pipeline, so tensor parallelism stays on a node where it fits. A ring that spans nodes uses
the network cards of all its members there, up to what the scale-up link carries. Start-up grows
with members inside a node and with the logarithm of nodes, as NCCL's choice of ring or tree does.
Contention between groups, topology beyond two levels and congestion are left out.
"""

from dataclasses import dataclass
from math import ceil, log2

from benthic.cost.catalog.load import Gpu
from benthic.cost.step.layout import Layout


@dataclass(frozen=True)
class Group:
    """`size` GPUs that talk to each other, `inside` of them on each node."""

    size: int
    inside: int

    @property
    def nodes(self) -> int:
        return ceil(self.size / self.inside)


@dataclass(frozen=True)
class Links:
    """One direction, per GPU, as reached: bytes/s; `startup` is seconds a hop."""

    up: float
    out: float
    startup: float

    def bandwidth(self, group: Group) -> float:
        if group.size <= group.inside:
            return self.up
        return min(self.up, group.inside * self.out)


def links(
    gpu: Gpu, *, up_share: float, out_share: float, startup: float, pcie: float, network: float
) -> Links:
    """What a GPU's links reach; `pcie` and `network` (bytes/s) stand in for links it lacks."""
    return Links(
        up=(gpu.scale_up or pcie) * up_share,
        out=(gpu.scale_out or network) * out_share,
        startup=startup,
    )


def groups(layout: Layout, per_node: int) -> dict[str, Group]:
    """The group of each kind of parallelism that a GPU belongs to."""
    tensor = Group(layout.tensor, min(layout.tensor, per_node))
    replicas = layout.data * layout.context
    beside = max(1, per_node // layout.tensor)  # replicas whose shards meet on a node
    stride = layout.tensor * replicas
    return {
        "tensor": tensor,
        "context": Group(layout.context, min(layout.context, beside)),
        "expert": Group(layout.expert, min(layout.expert, beside)),
        "data": Group(replicas, min(replicas, beside)),
        "pipeline": Group(layout.pipeline, min(layout.pipeline, max(1, per_node // stride))),
    }


def all_reduce(size: float, group: Group, links: Links) -> float:
    """Seconds to sum `size` bytes on every member: a reduce-scatter and an all-gather."""
    return 2 * all_gather(size, group, links)


def all_gather(size: float, group: Group, links: Links) -> float:
    """Seconds until each member holds all `size` bytes; a reduce-scatter takes as long."""
    if group.size == 1 or not size:
        return 0.0
    hops = group.inside - 1 + 3 * log2(group.nodes)
    return (group.size - 1) / group.size * size / links.bandwidth(group) + hops * links.startup


def send(size: float, group: Group, links: Links) -> float:
    """Seconds to hand `size` bytes to the neighbour; where a group spans nodes, over the network,
    since the slowest hop paces a pipeline."""
    if group.size == 1:
        return 0.0
    return size / (links.out if group.nodes > 1 else links.up) + links.startup


def all_to_all(
    rows: float, copies: float, nodes_a_row: float, row_bytes: float, group: Group, links: Links
) -> float:
    """Seconds to hand `rows` rows of a GPU, `copies` copies of each, to members chosen evenly.

    A row crosses the network once for each other node that it goes to, of at most `nodes_a_row`
    (routing limited to nodes, V3 section 3.2.2), and is copied on within the node.
    """
    if group.size == 1:
        return 0.0
    hops = group.inside - 1 + 3 * log2(group.nodes)
    met = min(nodes_a_row, group.nodes * (1 - (1 - 1 / group.nodes) ** copies))
    remote = rows * row_bytes * met * (group.nodes - 1) / group.nodes
    apart = (group.inside - 1) / group.inside
    within = rows * row_bytes * copies * apart
    return max(remote / links.out, within / links.up) + hops * links.startup
