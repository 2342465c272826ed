"""Sums over devices whose gradients come out right under DistributedDataParallel."""

from __future__ import annotations

import atexit
import gc
from functools import cache
from typing import Any

import torch.distributed
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def rank() -> int:
    """This process's number among those that train together, from 0."""
    return torch.distributed.get_rank() if world_size() > 1 else 0


@cache
def leave_at_exit() -> None:
    """Takes the process group down before the interpreter goes.

    A thread of gloo's that gives its last result back to an interpreter that is going aborts the
    process, behind its work, and the launcher calls a finished run failed.
    """
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Modules under DistributedDataParallel hold the group, and stand in circles themselves.
        gc.collect()
        torch.distributed.destroy_process_group()


def is_of_another(error: BaseException) -> bool:
    """Whether an error is that another process is gone which trained along.

    The store's errors have a class; gloo's and NCCL's are told by what they say.

    Args:
        error: what a training raised.
    """
    said = any(words in str(error) for words in ("gloo/transport", "remote process exiting"))
    return isinstance(error, RuntimeError) and (
        said or isinstance(error, torch.distributed.DistNetworkError)
    )


def global_sum(local: Tensor) -> Tensor:
    """Sum of a tensor over all processes, differentiable without communication in backward.

    DistributedDataParallel *averages* the processes' gradients. The value returned is the global
    sum; its gradient is that of ``world_size * local``, so that the average over the processes is
    the gradient of the global objective, however non-linear that objective is in the sum: every
    process evaluates it at the same value. The mean of per-process penalties is another function.

    Args:
        local: this process's contribution, any shape, float.

    Returns:
        The same shape: the sum over processes; ``local`` itself when there is one process.
    """
    processes = world_size()
    if processes == 1:
        return local
    total = local.detach().clone()
    torch.distributed.all_reduce(total)
    scaled = local * processes
    return scaled + (total - scaled.detach())


def gathered_rows(local: Tensor) -> Tensor:
    """The rows that were dealt to the processes, on the first of them in their old order.

    Args:
        local: rows r, r + W, ... of process r of W, ``(n_r, ...)``.

    Returns:
        ``(n, ...)`` on the CPU on the first process; elsewhere ``local``.
    """
    processes = world_size()
    if processes == 1:
        return local.cpu()
    parts: list[Any] | None = [None] * processes if rank() == 0 else None
    torch.distributed.gather_object(local.cpu(), parts)
    if parts is None:
        return local
    whole = torch.empty(sum(map(len, parts)), *local.shape[1:], dtype=local.dtype)
    for place, part in enumerate(parts):
        whole[place::processes] = part
    return whole
