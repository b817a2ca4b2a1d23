"""How volumes are cut: whole chunks, within the memory; and what makes a task another one."""

from __future__ import annotations

import numpy as np
import pytest

from disks import Synced
from napari_celltrain.engine.objects import halo
from napari_celltrain.engine.windows import WindowGrid
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.io.writer import write_volume
from napari_celltrain.nets.normalize import IntensityStatistics
from napari_celltrain.predict import blocks
from napari_celltrain.predict.blocks import fingerprint, fits_memory, make_plan
from napari_celltrain.predict.passes import share_of
from napari_celltrain.runs.model import read_card
from tiny_models import VOXEL_SIZE, write_tiny_model

STATISTICS = IntensityStatistics(kind="percentile", offset=0.0, scale=1.0)


class Huge:
    """A volume of which only the size matters."""

    dtype = np.dtype(np.uint16)

    def __init__(self, *shape: int) -> None:
        self.shape = shape


@pytest.fixture
def card(tmp_path):
    return read_card(write_tiny_model(tmp_path))


@pytest.mark.parametrize("shape", [(1024, 1024, 1024), (50, 20_000, 20_000), (3000, 300, 40), (5, 6, 7)])
def test_blocks_are_whole_chunks_and_fit_the_memory(shape, card):
    plan = make_plan(card, Huge(*shape), VOXEL_SIZE, STATISTICS, "", probabilities=False)
    for block in (plan.map_block, plan.object_block):
        for size, chunk, length in zip(block, plan.chunk, shape, strict=True):
            assert size % chunk == 0 or size >= length
    assert WindowGrid(shape, card.window).memory(plan.map_block[1:], 3, 2) <= blocks.COLUMN_BYTES
    around = halo(card.decoding, VOXEL_SIZE)
    whole = np.prod([size + 2 * width for size, width in zip(plan.object_block, around, strict=True)])
    assert whole <= blocks.OBJECT_VOXELS


@pytest.mark.parametrize("limit", [True, False])
def test_blocks_treat_outliers_as_the_model_does(card, limit):
    card = card.model_copy(update={"limit_outliers": limit})
    statistics = card.measure(np.arange(1000, dtype=np.uint16).reshape(10, 10, 10))
    plan = make_plan(card, Huge(10, 10, 10), VOXEL_SIZE, statistics, "", probabilities=False)
    assert plan.model_validate_json(plan.model_dump_json()).statistics.limit == (12.0 if limit else None)


def test_a_plane_that_fits_the_memory_is_not_cut(card):
    plan = make_plan(card, Huge(1024, 500, 500), VOXEL_SIZE, STATISTICS, "", probabilities=False)
    assert plan.maps.counts[1:] == (1, 1)


def test_only_large_volumes_go_by_blocks(card):
    assert fits_memory(card, Huge(64, 256, 256), probabilities=False)
    assert not fits_memory(card, Huge(1024, 1024, 1024), probabilities=False)


def test_blocks_are_on_the_disk_before_they_are_marked(card, tmp_path, monkeypatch):
    synced = Synced(monkeypatch)
    plan = make_plan(card, Huge(40, 200, 60), VOXEL_SIZE, STATISTICS, "", probabilities=False)
    store = blocks.create_store(tmp_path / "store", plan)
    empty = {store.path / "parts", *(store.path / "done").iterdir()}
    assert set(synced.missing(store.path)) == empty
    assert synced.inodes[-1] == tmp_path.stat().st_ino
    region = plan.maps.region(0)
    store.write("maps", region, np.ones((plan.num_outputs, *(part.stop - part.start for part in region)), np.uint8))
    store.write_part(0, {"names": np.arange(3)})
    assert set(synced.missing(store.path)) == empty - {store.path / "parts"}


@pytest.mark.parametrize(("total", "count"), [(10, 3), (2, 5), (7, 1), (0, 2)])
def test_shares_are_all_blocks_once(total, count):
    shares = [share_of(range(total), index, count) for index in range(1, count + 1)]
    assert [number for share in shares for number in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_task_is_known_by_model_image_and_options(tmp_path, card):
    image = np.random.default_rng(0).integers(0, 99, (8, 9, 10)).astype(np.uint8)
    write_volume(tmp_path / "a.tif", image)

    def mark(model: str = "run", card=card, **options: object) -> str:
        return fingerprint(tmp_path / model, card, open_volume(tmp_path / "a.tif"), **options)

    first = mark(probabilities=False)
    assert mark(probabilities=False) == first
    assert mark(probabilities=True) != first
    for change in ({"threshold": 0.7}, {"limit_outliers": True}):
        assert mark(card=card.model_copy(update=change), probabilities=False) != first
    weights = tmp_path / "run" / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert mark(probabilities=False) != first
    weights.write_bytes(content)
    assert mark(probabilities=False) == first
    write_volume(tmp_path / "a.tif", image + 1)
    assert mark(probabilities=False) != first
