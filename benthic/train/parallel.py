"""Data parallelism by torch.distributed, applied from outside the model.

Every rank holds the whole model. A step's parts (micro-batches) are dealt to the ranks in turn;
their gradients are summed by one all-reduce, so two ranks add the same two numbers as one rank
does.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process among its peers; one alone if torchrun did not start it."""

    rank: int = 0
    size: int = 1
    per_machine: int = 1

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


def connect(device: str) -> Ranks:
    """Join the peers that torchrun started, by gloo or NCCL; set threads and device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but PyTorch sees no GPU here: use --set device=cpu")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.set_num_threads(max(1, available_cores() // local))
    if size == 1:
        return Ranks()
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    return Ranks(dist.get_rank(), size, local)


def disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
