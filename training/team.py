"""Several processes with one thread each, which learn as one.

On busy cores this beats one process with several threads: threads wait for each other at every product, a
team once per step. Gradients are averaged; each member steps its own share of the matrices and gives it on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor


@dataclass(frozen=True)
class Team:
    rank: int = 0
    size: int = 1

    def average(self, tensors: list[Tensor]) -> None:
        """Replace the tensors by their mean over the team."""
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            _spread(flat / self.size, tensors)

    def agree(self, number: int) -> int:
        """The first member's number."""
        if self.size == 1:
            return number
        shared = torch.tensor([number])
        dist.broadcast(shared, src=0)
        return int(shared)

    def share(self, tensors: list[Tensor]) -> list[Tensor]:
        """The part of a list that this member works on."""
        return tensors[self.rank :: self.size]

    def hand_round(self, tensors: list[Tensor]) -> None:
        """Everybody gets every member's share."""
        for owner in range(self.size if self.size > 1 else 0):
            part = tensors[owner :: self.size]
            flat = torch.cat([tensor.flatten() for tensor in part])
            dist.broadcast(flat, src=owner)
            _spread(flat, part)


def _spread(flat: Tensor, tensors: list[Tensor]) -> None:
    for tensor, piece in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))


def _member(rank: int, size: int, meeting: str, work: Callable[..., None], options: object) -> None:
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    work(Team(rank, size), options)
    dist.destroy_process_group()


def run(size: int, meeting: Path, work: Callable[..., None], options: object) -> None:
    """Run `work(team, options)` in `size` processes that meet through a file."""
    if size == 1:
        work(Team(), options)
        return
    meeting.unlink(missing_ok=True)
    mp.spawn(_member, args=(size, f"file://{meeting.resolve()}", work, options), nprocs=size)
