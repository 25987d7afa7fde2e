"""Devices by name, and training on several: one process a device, started by torchrun."""

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import InputError

# What torchrun tells each process, besides how many there are.
TOLD = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def device_by_name(name: torch.device | str = "auto") -> torch.device:
    """The device `name`, or for `auto` the first there is of CUDA, MPS and CPU.

    `cuda:1` is the second GPU. A device of torch's own of any other kind is taken as it is.

    Raises:
        InputError: the name is unknown or the device is not there.
    """
    if not isinstance(name, torch.device | str):
        raise InputError(f"a device is a name such as 'cuda' or 'cpu', got {type(name).__name__}")
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    there = [device for device, is_there in available.items() if is_there]
    if name == "auto":
        return torch.device(there[0])
    kind, colon, index = str(name).partition(":")
    if isinstance(name, torch.device) and kind not in available:
        return name
    count = torch.cuda.device_count() if kind == "cuda" and colon else 1
    fits = not colon or index in map(str, range(count))
    if kind not in there or not fits:
        many = f"; of {kind} there is {kind}:0 to {kind}:{count - 1}" if kind in there else ""
        raise InputError(
            f"no device {str(name)!r} here: choose auto or one of {', '.join(there)}{many}"
        )
    # The one CPU has two names for torch, which would take them for two devices.
    return torch.device(kind if kind != "cuda" else str(name))


def rank_and_world() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are: 0 and 1 outside torchrun.

    Example:
        >>> from flowvae_tutorial.training.ranks import rank_and_world
        >>> rank_and_world()
        (0, 1)
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; yields the device of this one.

    Raises:
        InputError: the environment names a number of processes and not what torchrun says besides,
            or there are fewer GPUs than processes.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    missing = [name for name in TOLD if not os.environ.get(name)]
    if world != "1" and (missing or not world.isdecimal()):
        raise InputError(
            f"the environment has WORLD_SIZE={world!r}{' and no ' * bool(missing)}"
            f"{', '.join(missing)}: unset it, or start several processes by torchrun"
        )
    if world == "1":
        yield device
        return
    if device.type == "cuda":
        device = device_by_name(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """The first process does this alone, and the others after it: one download, not one each."""
    rank, world = rank_and_world()
    if rank > 0:
        dist.barrier()
    yield
    if rank == 0 and world > 1:
        dist.barrier()


def share_of(rows: Tensor) -> tuple[Tensor, float]:
    """This process's part of a batch, and the weight of its mean in the mean over processes.

    Gradients are averaged over processes. With these weights that average is the gradient of the
    whole batch's mean, also where the parts are not of one size.
    """
    rank, world = rank_and_world()
    # A batch too small to be split is everyone's.
    if world == 1 or len(rows) < world:
        return rows, 1.0
    part = rows.tensor_split(world)[rank]
    return part, len(part) * world / len(rows)


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean over all processes, the same number on each."""
    _, world = rank_and_world()
    if world > 1:
        dist.all_reduce(value)
    return value / world
