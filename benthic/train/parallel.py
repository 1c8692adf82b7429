"""Data parallelism by threads and by torch.distributed, applied from outside the model.

Every rank holds the whole model. A step's parts (micro-batches) are dealt to the ranks in turn,
and a rank on a CPU runs its parts side by side, a thread each. Small operations gain little from
more cores and their sums change with the number of threads, so a part has the same threads on any
number of ranks: two ranks add, by one all-reduce, the same two gradients to the bit that one rank
adds.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

_PATIENCE = timedelta(days=1)  # the others wait while the first rank evaluates
Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers; one alone if torchrun did not start it.

    `pool` runs this rank's parts side by side; none: one after the other.
    """

    rank: int = 0
    size: int = 1
    per_machine: int = 1
    pool: ThreadPoolExecutor | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def machines(self) -> int:
        return self.size // self.per_machine

    def deal(self, parts: int) -> range:
        """The parts that fall to this rank."""
        if parts % self.size:
            raise ValueError(
                f"micro_batches = {parts} cannot be dealt to {self.size} ranks: "
                f"start a number of ranks that divides it, or set it to {self.size}"
            )
        return range(self.rank, parts, self.size)

    def each(self, work: Callable[[int], Result], parts: int) -> Iterator[Result]:
        """`work(number)` for each of this rank's parts, results in their order; without a pool a
        part is worked on when its result is asked for."""
        mine = self.deal(parts)
        if self.pool is None or len(mine) == 1:
            return map(work, mine)
        return self.pool.map(work, mine)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks: one all-reduce for each dtype."""
        if self.size == 1:
            return
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            mine = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in mine])
            dist.all_reduce(flat)
            for t, summed in zip(mine, flat.split([t.numel() for t in mine]), strict=True):
                t.copy_(summed.view_as(t))

    def agree(self, value: object) -> object:
        """The first rank's value, on every rank; a small JSON-like object."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether any rank raised the flag."""
        if self.size == 1:
            return flag
        seen = torch.tensor([int(flag)])
        dist.all_reduce(seen, op=dist.ReduceOp.MAX)
        return bool(seen.item())

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def connect(device: str, parts: int) -> Ranks:
    """Join the peers that torchrun started, by gloo or NCCL; set threads and device.

    `parts`: of a step, over all ranks; they share the machine's cores.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but PyTorch sees no GPU here: use --set device=cpu")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    threads = max(1, available_cores() // parts)
    torch.set_num_threads(threads)
    side_by_side = available_cores() // (threads * local)
    pool = None
    if device == "cpu" and side_by_side > 1:
        # Each of the pool's threads has its own setting, for forward and backward alike.
        pool = ThreadPoolExecutor(
            side_by_side, "benthic-part", torch.set_num_threads, initargs=(threads,)
        )
    if size == 1:
        return Ranks(pool=pool)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    return Ranks(dist.get_rank(), size, local, pool)


def disconnect(ranks: Ranks) -> None:
    """Let go of threads and peers."""
    if ranks.pool is not None:
        ranks.pool.shutdown(wait=False, cancel_futures=True)
    if dist.is_initialized():
        dist.destroy_process_group()


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
