"""Where to compute: the device and its name, the processor's threads, and the processes that ``torchrun`` starts."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist

from napari_celltrain.values.errors import DeviceError
from napari_celltrain.values.text import count


def resolve_device(name: str) -> torch.device:
    """The device called ``name`` (``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``).

    ``auto`` takes the first of CUDA, Apple's MPS and the processor that is there; under ``torchrun`` each
    process takes the GPU of its local rank. Raises :class:`DeviceError` where a named device is missing.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            reason = (
                "this PyTorch was built without CUDA; install the CUDA build from pytorch.org"
                if torch.version.cuda is None
                else "no NVIDIA GPU with a working driver was found"
            )
            raise DeviceError(f"The device {name!r} cannot be used: {reason}, or set the device to auto or cpu.")
        _, _, index = name.partition(":")
        number = torch.cuda.device_count()
        if index and int(index) >= number:
            raise DeviceError(f"There is no GPU number {index}; this computer has {number}, counted from 0.")
        return torch.device("cuda", int(index) if index else local_rank % number)
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("This computer has no Apple GPU that PyTorch can use. Set the device to auto or cpu.")
    return torch.device(name)


def describe(device: torch.device) -> str:
    """The device's name for people."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "mps":
        return f"Apple GPU ({platform.processor() or platform.machine()})"
    return f"CPU ({count(torch.get_num_threads(), 'thread')})"


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def set_threads(number: int | None) -> None:
    """Use that many processor threads; None is all cores that this process may use, shared among its ranks."""
    if number is None:
        try:
            # annotated on Linux alone, so elsewhere mypy would not find it
            cores = len(os.sched_getaffinity(0))  # type: ignore[attr-defined,unused-ignore]
        except AttributeError:  # Windows and macOS have no affinity call
            cores = os.cpu_count() or 1
        number = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(number)


def set_deterministic(on: bool) -> None:
    """Ask for algorithms that repeat exactly (and raise where PyTorch has none)."""
    if on:
        # cuBLAS reads this at its first use; without it deterministic matrix products raise an error
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on, warn_only=True)
    torch.backends.cudnn.deterministic = on
    torch.backends.cudnn.benchmark = not on


@contextmanager
def memory_errors_explained() -> Iterator[None]:
    """Turn the many faces of "out of memory" into one :class:`DeviceError` that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error).lower()
        marks = ("out of memory", "can't allocate memory", "defaultcpuallocator", "alloc_failed")
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or any(mark in text for mark in marks)):
            raise
        where = "GPU" if "cuda" in text or isinstance(error, torch.OutOfMemoryError) else "computer"
        raise DeviceError(
            f"The {where} ran out of memory. Take a smaller batch size, smaller patches, or a smaller model size."
        ) from error


def peak_memory_gb() -> float:
    """The most memory that this process has held so far, in GB (10⁹ bytes)."""
    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if platform.system() == "Darwin" else peak * 1024 / 1e9


# --- distributed -----------------------------------------------------------------------------------------

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's number among ``world`` equal ones. With one process every method is a plain pass-through."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder and talks to people."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of ``items``: every item goes to exactly one process."""
        return list(items[self.rank :: self.world])

    def broadcast(self, value: T) -> T:
        """The first process's value, in all processes."""
        if self.world == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        result: T = box[0]
        return result

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks, in all processes."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started; alone, that is one. Left, the connection is closed."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
