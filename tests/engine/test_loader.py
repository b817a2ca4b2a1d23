"""Batches ahead of time: their order, their errors, and the end of the threads."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from napari_celltrain.engine.patches import Batch, PatchRequest, prefetched


def numbered(requests: list[PatchRequest]) -> Batch:
    time.sleep(0.002 * (requests[0].seed % 3))  # later ones may be done first
    return Batch(torch.tensor([requests[0].seed]), torch.zeros(1))


def requests(count: int):
    return ([PatchRequest(0, number)] for number in range(count))


@pytest.mark.parametrize("num_threads", [1, 4])
def test_batches_come_in_the_order_asked_for(num_threads):
    with prefetched(numbered, requests(20), num_threads=num_threads) as batches:
        assert [int(batch.image[0]) for batch in batches] == list(range(20))


def test_an_error_is_raised_where_its_batch_would_have_come():
    def make(asked: list[PatchRequest]) -> Batch:
        if asked[0].seed == 2:
            raise ValueError("this one")
        return numbered(asked)

    with prefetched(make, requests(5)) as batches:
        assert [int(next(batches).image[0]) for _ in range(2)] == [0, 1]
        with pytest.raises(ValueError, match="this one"):
            next(batches)


def test_leaving_it_early_ends_its_threads_and_asks_for_no_more():
    asked = []

    def count():
        for number in range(1000):
            asked.append(number)
            yield [PatchRequest(0, number)]

    with prefetched(numbered, count(), num_threads=2, ahead=3) as batches:
        next(batches)
    assert len(asked) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("celltrain-loader")]


def test_the_threads_of_the_network_are_left_alone():
    before = torch.get_num_threads()
    seen = []

    def make(asked: list[PatchRequest]) -> Batch:
        seen.append(torch.get_num_threads())
        return numbered(asked)

    with prefetched(make, requests(3)) as batches:
        list(batches)
        assert torch.get_num_threads() == before
    assert set(seen) == {1}
