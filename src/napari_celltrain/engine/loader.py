"""Batches made ahead of time, in background threads, in the order asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

from napari_celltrain.engine.dataset import Batch
from napari_celltrain.engine.sampler import PatchRequest


class Prefetcher:
    """An iterator over batches that keeps ``ahead`` of them ready.

    Threads suffice: cropping, resampling and arithmetic release Python's lock, and nothing is copied between
    processes. The order is that of the requests whatever the number of threads. Use it as a context manager:
    leaving it ends the threads. An error in a thread is raised where its batch would have come.
    """

    def __init__(
        self,
        make: Callable[[list[PatchRequest]], Batch],
        requests: Iterable[list[PatchRequest]],
        *,
        num_threads: int = 1,
        ahead: int = 3,
    ) -> None:
        self._make = make
        self._requests = iter(requests)
        self._ahead = max(ahead, num_threads)
        # the cores belong to the network: torch's own threads in the transforms would take them, and make results
        # depend on their number; this sets the number for the loader's threads alone
        self._pool = ThreadPoolExecutor(
            num_threads, "celltrain-loader", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._waiting: deque[Future[Batch]] = deque()

    def __enter__(self) -> Prefetcher:
        self._fill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self._fill()
        if not self._waiting:
            raise StopIteration
        batch = self._waiting.popleft().result()
        self._fill()
        return batch

    def _fill(self) -> None:
        while len(self._waiting) < self._ahead:
            requests = next(self._requests, None)
            if requests is None:
                return
            self._waiting.append(self._pool.submit(self._make, requests))
