"""Several processes training one supernet: ``torchrun --nproc-per-node N -m edgenas train ...``.

``torch.distributed`` does the work (gloo on CPUs, nccl on GPUs). Outside ``torchrun`` there is one
process, and nothing here does anything. Every process draws the same archs; what is shared out are
images, and networks to be evaluated.
"""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from edgenas.basics.errors import EdgenasError

Item = TypeVar("Item")
Found = TypeVar("Found")


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; the first one writes and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def processes(device: str) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did; the device of this one.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    place = int(os.environ.get("LOCAL_RANK", "0"))
    own_device = torch.device(device, place) if device == "cuda" else torch.device(device)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield own_device
        return
    if device == "cuda":
        torch.cuda.set_device(own_device)
    # This module has the group of the moment as a default of its functions. Optimisers import it,
    # late: then the group outlives its end here, and a thread of gloo that gives a tensor back
    # while the interpreter closes ends the process with SIGABRT (pytorch/pytorch issue 190489).
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield own_device
    except (EdgenasError, OSError) as error:
        # Only the first process talks; what another one alone has met, torchrun tells at the end.
        if rank() > 0:
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)
        raise
    finally:
        dist.destroy_process_group()


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace every tensor by its sum over the processes, in one message, in place."""
    listed = list(tensors)
    if world() == 1 or not listed:
        return
    flat = torch.cat([t.reshape(-1) for t in listed])
    dist.all_reduce(flat)
    for tensor, part in zip(listed, flat.split([t.numel() for t in listed]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gather(value: Any) -> list[Any]:
    """The values of all processes, in their order; every process gets them."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def share_out(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Iterable[Found]]
) -> list[Found]:
    """What work makes of items, one for each, in their order; every process gets all.

    Args:
        items: the same in every process.
        work: done by every process with its own part of them.
    """
    gathered = gather(list(work(items[rank() :: world()])))
    return [gathered[i % len(gathered)][i // len(gathered)] for i in range(len(items))]


def broadcast(value: Any) -> Any:
    """The value of the first process."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
