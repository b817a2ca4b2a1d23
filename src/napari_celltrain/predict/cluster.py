"""Blocks computed by the workers of an existing dask.distributed cluster, which see the same files.

A worker computes one group of blocks at a time, in the thread that dask gives it, so torch gets as many threads as
the worker was started with and the worker's own loop stays free to answer the scheduler.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_celltrain.io.volume import LazyArray
from napari_celltrain.predict.blocks import BlockStore
from napari_celltrain.predict.files import InputRequest
from napari_celltrain.predict.passes import Pass, decode_objects, predict_maps, share_of
from napari_celltrain.runs.model import Model, ModelCard, load_model
from napari_celltrain.values import files
from napari_celltrain.values.errors import CellTrainError, ConfigError, DataError, DeviceError, Problem

if TYPE_CHECKING:
    from distributed import Client, Future

_SECONDS_TO_CONNECT = 30
_BLOCKS_FOR_SEVERAL_GROUPS = 8
"""A worker gets more than one group of blocks where there are as many for each, as windows are computed twice where
groups meet."""
_alone = threading.Lock()
"""A worker of several threads must not run several networks, each with threads of its own."""


@dataclass(frozen=True, slots=True)
class Task:
    """One volume and how it is to be segmented, by their files."""

    request: InputRequest
    model: Path
    card: ModelCard
    device: str


@contextlib.contextmanager
def connect(address: str) -> Iterator[Client]:
    """A client of the cluster whose scheduler is at ``address``. Raises :class:`CellTrainError`."""
    try:
        from distributed import Client
    except ImportError:
        message = "A dask cluster needs the package distributed, which is not installed."
        remedy = 'Install it: pip install "napari-celltrain[cluster]".'
        raise ConfigError(Problem("no-distributed", "", message, remedy, settings=("dask",))) from None
    try:
        client = Client(address, timeout=_SECONDS_TO_CONNECT)
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error).strip() or type(error).__name__
        raise DeviceError(
            f"No dask scheduler answers at {address} ({reason}). Start one (dask scheduler), or check the address."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_SECONDS_TO_CONNECT)
        except TimeoutError:
            raise DeviceError(
                f"The dask scheduler at {address} has no workers. Start some (dask worker {address})."
            ) from None
        yield client


def compute_remotely(client: Client, task: Task, store: BlockStore, stage: Pass, numbers: list[int]) -> Iterator[int]:
    """Have blocks computed by all workers; gives how many of them are done, whenever that changes.

    Raises the errors of the workers.
    """
    from distributed import CancelledError, KilledWorker, wait
    from distributed.comm.core import CommClosedError

    workers = len(client.nthreads())
    groups = workers * max(1, min(4, len(numbers) // (_BLOCKS_FOR_SEVERAL_GROUPS * workers)))
    shares = [share_of(numbers, index + 1, groups) for index in range(groups)]
    # not pure: a block that was done before may have been deleted since
    folder = store.path.absolute()
    futures = [client.submit(_compute, task, folder, stage, share, pure=False) for share in shares if share]
    reported = 0
    try:
        waiting: set[Future[Any]] = set(futures)
        while waiting:
            with contextlib.suppress(TimeoutError):
                waiting -= wait(waiting, timeout=0.5, return_when="FIRST_COMPLETED").done
            for future in futures:
                if future.status == "error":
                    future.result()
            done = len(numbers) - len(store.done[stage].missing(numbers))
            if done > reported:
                reported = done
                yield done
    except KilledWorker as error:
        raise DeviceError(
            "Workers of the dask cluster ended several times at the same blocks; they probably ran out of memory. Give "
            "them more, then start the same command again: it goes on where it stopped."
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise DeviceError("The dask cluster dropped the work. Start the same command again.") from error
    finally:
        client.cancel(futures)


def _compute(task: Task, folder: Path, stage: Pass, numbers: list[int]) -> int:
    """Runs in a worker. Blocks that another process has done meanwhile are left out."""
    with _alone, files.writing(folder, DataError):
        if not folder.is_dir():
            raise CellTrainError(
                f"A worker does not see {folder}. All workers must reach the model, the images and the results by "
                "the same paths, as on a shared disk."
            )
        store = BlockStore(folder)
        wanted = store.done[stage].missing(numbers)
        model, image = _prepare(task)
        is_maps = stage == "maps"
        done = predict_maps(model, image, store, wanted) if is_maps else decode_objects(task.card, store, wanted)
        return max(done, default=0)


@lru_cache(maxsize=1)
def _prepare(task: Task) -> tuple[Model, LazyArray]:
    """The model and the image, kept for the next blocks."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # counts where torch is not loaded yet
    from distributed import get_worker

    from napari_celltrain.engine.device import resolve_device, set_threads

    set_threads(int(get_worker().state.nthreads))
    model = replace(load_model(task.model, resolve_device(task.device)), card=task.card)
    return model, task.request.open(task.card).image
