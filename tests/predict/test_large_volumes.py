"""Volumes that are segmented block by block: as if they had been segmented at once, whoever computes what."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from torch import nn

from balls import make_pair
from napari_celltrain.engine.precision import NumericFormat
from napari_celltrain.engine.predictor import Predictor
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.io.writer import write_volume
from napari_celltrain.predict import blocks, volumes
from napari_celltrain.predict.volumes import predict
from napari_celltrain.runs.model import Model, read_card
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import CellTrainError, ConfigError, DataError
from napari_celltrain.values.events import Event, Logged, Prepared, Saved, Warned
from tiny_models import LEARNED, VOXEL_SIZE, write_tiny_model

SHAPE = (40, 50, 60)
WATERSHED = LEARNED.model_copy(update={"method": "watershed", "seed_level": 0.5})
KINDS = {
    "mask": {"label_kind": "foreground", "target": "foreground", "objects": None},
    "classes": {"label_kind": "classes", "target": "foreground", "objects": None, "class_values": (0, 7, 300)},
    "components": {"target": "foreground", "objects": ObjectDecoding(method="components", min_size_um3=1.0)},
    "watershed": {"target": "foreground", "objects": WATERSHED},
    "learned": {"objects": LEARNED},
}


class Bright(nn.Module):
    """Calls the bright voxels foreground and the brightest the middle of an object, as a trained network would."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        self.windows = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.windows += len(x)
        smooth = nn.functional.avg_pool3d(x, 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat(
            [(12 - 4 * channel) * (smooth - 0.25 - 0.2 * channel) for channel in range(self.num_outputs)], 1
        )


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("large") / "large.tif"
    write_volume(file, make_pair(0, SHAPE, num_objects=70)[0], VOXEL_SIZE)
    return file


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[Bright]:
    """Models are loaded with a network that finds something; those that were used."""
    used: list[Bright] = []

    def load(model: Path, device: torch.device) -> Model:
        card = read_card(model)
        used.append(Bright(card.network.out_channels))
        outputs, target = card.network.out_channels, card.target
        return Model(card, Predictor(used[-1], outputs, (16, 16, 16), device, NumericFormat(), 2, target))

    monkeypatch.setattr(volumes, "load_model", load)
    return used


@pytest.fixture
def some_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is too large for the memory; there are some blocks."""
    monkeypatch.setattr(blocks, "WHOLE_BYTES", 0)
    monkeypatch.setattr(blocks, "COLUMN_BYTES", 0)
    monkeypatch.setattr(blocks, "OBJECT_VOXELS", 0)
    monkeypatch.setattr(blocks, "CHUNK", (16, 32, 32))


@pytest.fixture
def small_blocks(some_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks, smaller than what is looked at around them: for what compares them with the whole."""
    monkeypatch.setattr(blocks, "CHUNK", (8, 32, 24))


def messages(events: list[Event], kind: type = Logged) -> str:
    return "\n".join(event.message for event in events if isinstance(event, kind))


def hidden(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("kind", KINDS)
def test_by_blocks_the_file_is_the_same(kind, tmp_path, volume, network, request):
    model = write_tiny_model(tmp_path, **KINDS[kind])
    at_once = list(predict(model, [volume], tmp_path / "at once"))
    request.getfixturevalue("small_blocks")
    by_blocks = list(predict(model, [volume], tmp_path / "blocks"))
    assert messages(by_blocks) == messages(at_once)
    first, second = (open_volume(tmp_path / name / "large.tif") for name in ("at once", "blocks"))
    assert (second.dtype, second.voxel_size) == (first.dtype, first.voxel_size)
    found, expected = second.read(), first.read()
    assert len(np.unique(expected)) > (10 if "objects" in KINDS[kind] and KINDS[kind]["objects"] else 1)
    assert np.count_nonzero(found != expected) <= 1e-4 * found.size
    assert not hidden(tmp_path / "blocks")


def test_probabilities_by_blocks_are_the_same(tmp_path, volume, network, small_blocks, monkeypatch):
    model = write_tiny_model(tmp_path)
    list(predict(model, [volume], tmp_path / "blocks", probabilities=True))
    monkeypatch.setattr(blocks, "WHOLE_BYTES", 2**30)
    list(predict(model, [volume], tmp_path / "at once", probabilities=True))
    names = sorted(file.name for file in (tmp_path / "blocks").iterdir())
    assert names == ["large.tif", "large_boundary.tif", "large_distance.tif", "large_probability.tif"]
    for name in names[1:]:
        found, expected = (tifffile.imread(tmp_path / folder / name) for folder in ("blocks", "at once"))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def interrupted(events: Iterator[Event], when: Callable[[Event], bool]) -> list[Event]:
    """The events up to the first one that ``when`` is true of; there the prediction is given up."""
    seen = []
    for event in events:
        seen.append(event)
        if when(event):
            break
    events.close()
    return seen


def after(blocks: int) -> Callable[[Event], bool]:
    """When so many blocks have gone through the network."""
    return lambda event: isinstance(event, Prepared) and event.stage == "segmenting large.tif" and event.done >= blocks


def test_interrupted_it_goes_on_where_it_stopped(tmp_path, volume, network, some_blocks):
    model = write_tiny_model(tmp_path)
    whole = list(predict(model, [volume], tmp_path / "whole"))
    windows = network[-1].windows
    out = tmp_path / "out"
    first = interrupted(predict(model, [volume], out), after(blocks=2))
    assert not any(isinstance(event, Saved) for event in first)
    assert not (out / "large.tif").exists()
    done = network[-1].windows
    second = list(predict(model, [volume], out))
    assert "going on with what is there" in messages(second)
    assert 0 < network[-1].windows < windows
    assert done + network[-1].windows < 1.5 * windows
    assert messages(second).splitlines()[-1] == messages(whole).splitlines()[-1]
    np.testing.assert_array_equal(tifffile.imread(out / "large.tif"), tifffile.imread(tmp_path / "whole" / "large.tif"))
    assert not hidden(out)


def test_interrupted_between_the_passes_the_network_is_not_run_again(tmp_path, volume, network, some_blocks):
    model = write_tiny_model(tmp_path)
    interrupted(
        predict(model, [volume], tmp_path / "out"),
        lambda event: isinstance(event, Prepared) and event.stage.startswith("finding objects") and event.done == 2,
    )
    list(predict(model, [volume], tmp_path / "out"))
    assert network[-1].windows == 0
    assert (tmp_path / "out" / "large.tif").exists()


def test_interrupted_after_the_labels_they_are_not_lost(tmp_path, volume, network, some_blocks):
    model = write_tiny_model(tmp_path)
    options = {"file_format": "zarr", "probabilities": True}
    labels = tmp_path / "out" / "large.ome.zarr"
    interrupted(predict(model, [volume], tmp_path / "out", **options), lambda _: labels.exists())
    written = open_volume(labels).read()
    assert written.any()
    assert hidden(tmp_path / "out")  # the probabilities are still to come
    list(predict(model, [volume], tmp_path / "out", **options))
    assert np.array_equal(open_volume(labels).read(), written)
    assert not hidden(tmp_path / "out")


def test_another_model_or_image_starts_anew_and_says_so(tmp_path, volume, network, some_blocks):
    out = tmp_path / "out"
    interrupted(predict(write_tiny_model(tmp_path, "a"), [volume], out), after(blocks=1))
    other = write_tiny_model(tmp_path, "b", threshold=0.6)
    events = interrupted(predict(other, [volume], out), after(blocks=1))
    assert "the model, the image or the options have changed" in messages(events, Warned)
    assert len(hidden(out)) == 1
    copy = tmp_path / "images" / "large.tif"
    copy.parent.mkdir()
    copy.write_bytes(volume.read_bytes())
    assert messages(list(predict(other, [copy], out)), Warned)
    assert not hidden(out)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shares_in_any_order_make_one_result(order, tmp_path, volume, network, some_blocks):
    model = write_tiny_model(tmp_path)
    list(predict(model, [volume], tmp_path / "whole"))
    out = tmp_path / "out"
    for index in order[:-1]:
        events = list(predict(model, [volume], out, blocks=f"{index}/3"))
        assert "this share of the blocks is done" in messages(events)
        assert not (out / "large.tif").exists()
    list(predict(model, [volume], out, blocks=f"{order[-1]}/3"))
    np.testing.assert_array_equal(tifffile.imread(out / "large.tif"), tifffile.imread(tmp_path / "whole" / "large.tif"))


def test_a_plain_call_does_what_shares_have_left(tmp_path, volume, network, some_blocks, monkeypatch):
    model = write_tiny_model(tmp_path)
    list(predict(model, [volume], tmp_path / "out", blocks="2/3"))
    monkeypatch.setattr(blocks, "WHOLE_BYTES", 2**30)  # also where the volume would fit the memory
    events = list(predict(model, [volume], tmp_path / "out"))
    assert "going on with what is there" in messages(events)
    assert (tmp_path / "out" / "large.tif").exists()
    assert not hidden(tmp_path / "out")


def test_who_comes_while_another_finishes_leaves_it_alone(tmp_path, volume, network, some_blocks, monkeypatch):
    model = write_tiny_model(tmp_path)
    first = predict(model, [volume], tmp_path / "out")
    for event in first:
        if isinstance(event, Prepared) and event.stage.startswith("finding objects"):
            break
    assert "another process makes the result" in messages(list(predict(model, [volume], tmp_path / "out")))
    list(first)
    assert (tmp_path / "out" / "large.tif").exists()


def test_progress_counts_blocks(tmp_path, volume, network, some_blocks):
    events = list(predict(write_tiny_model(tmp_path), [volume], tmp_path / "out"))
    told = [event for event in events if isinstance(event, Prepared) and event.stage == "segmenting large.tif"]
    assert [event.done for event in told[1:]] == list(range(told[1].total + 1))


@pytest.mark.parametrize("blocks", ["0/4", "5/4", "-1/2"])
def test_a_share_that_does_not_exist_is_refused(blocks, tmp_path, volume):
    with pytest.raises(ConfigError, match="is no share"):
        list(predict(write_tiny_model(tmp_path), [volume], tmp_path / "out", blocks=blocks))


def make_zarr(path: Path, array: np.ndarray, zarr_format: int) -> Path:
    scale = [{"coordinateTransformations": [{"type": "scale", "scale": list(VOXEL_SIZE)}], "path": "0"}]
    axes = [{"name": letter, "type": "space", "unit": "micrometer"} for letter in "zyx"]
    multiscales = [{"version": "0.4", "axes": axes, "datasets": scale}]
    ome = {"multiscales": multiscales}
    attributes = ome if zarr_format == 2 else {"ome": {"version": "0.5", **ome}}
    group = zarr.create_group(path, zarr_format=zarr_format, attributes=attributes)
    group.create_array("0", data=array, chunks=(16, 16, 16))
    return path


@pytest.mark.parametrize("zarr_format", [2, 3], ids=["OME-Zarr 0.4", "OME-Zarr 0.5"])
def test_ome_zarr_gives_ome_zarr_by_either_path(zarr_format, tmp_path, volume, network, monkeypatch):
    model = write_tiny_model(tmp_path)
    image = make_zarr(tmp_path / "v.zarr", tifffile.imread(volume), zarr_format)
    list(predict(model, [image], tmp_path / "at once"))
    list(predict(model, [volume], tmp_path / "tiff"))
    monkeypatch.setattr(blocks, "WHOLE_BYTES", 0)
    list(predict(model, [image], tmp_path / "blocks"))
    expected = tifffile.imread(tmp_path / "tiff" / "large.tif")
    for folder in ("at once", "blocks"):
        assert [entry.name for entry in (tmp_path / folder).iterdir()] == ["v.ome.zarr"]
        result = open_volume(tmp_path / folder / "v.ome.zarr")
        assert result.voxel_size == VOXEL_SIZE
        np.testing.assert_array_equal(result.read(), expected)


@pytest.mark.parametrize(("file_format", "name"), [("tiff", "v.tif"), ("zarr", "v.ome.zarr")])
def test_the_format_can_be_chosen(file_format, name, tmp_path, volume, network):
    image = make_zarr(tmp_path / "v.zarr", tifffile.imread(volume), 3)
    list(predict(write_tiny_model(tmp_path), [image], tmp_path / "out", file_format=file_format))
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [name]


def test_a_damaged_chunk_of_the_image_is_one_sentence(tmp_path, volume, network, some_blocks):
    image = make_zarr(tmp_path / "v.zarr", tifffile.imread(volume), 3)
    chunk = image / "0" / "c" / "1" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(DataError, match=r"v.zarr: The file cannot be decoded; it may be cut off or damaged"):
        list(predict(write_tiny_model(tmp_path), [image], tmp_path / "out"))


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "no space left on the disk"), (errno.EACCES, "permission denied")],
)
def test_a_disk_that_refuses_is_one_sentence_and_what_is_done_stays(
    number, sentence, tmp_path, volume, network, some_blocks, monkeypatch
):
    model = write_tiny_model(tmp_path)
    written = iter(range(3))

    def write(*_: object) -> None:
        if next(written, None) is None:
            raise OSError(number, "refused")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", write)
        with pytest.raises(DataError, match=sentence):
            list(predict(model, [volume], tmp_path / "out"))
    going_on = interrupted(predict(model, [volume], tmp_path / "out"), lambda event: "going on" in messages([event]))
    assert "3 of" in messages(going_on)


def test_a_damaged_folder_says_what_to_delete(tmp_path, volume, network, some_blocks):
    model = write_tiny_model(tmp_path)
    list(predict(model, [volume], tmp_path / "out", blocks="1/2"))
    (folder,) = hidden(tmp_path / "out")
    (folder / "plan.json").write_text("{")
    with pytest.raises(DataError, match="Delete this folder"):
        list(predict(model, [volume], tmp_path / "out"))


def test_other_values_for_objects_are_used(tmp_path, volume, network):
    model = write_tiny_model(tmp_path)
    huge = LEARNED.model_copy(update={"min_size_um3": 1e6})
    assert "large.tif: 0 objects" in messages(list(predict(model, [volume], tmp_path / "a", decoding=huge)))
    found = []
    for threshold in (0.5, 0.99):
        list(predict(model, [volume], tmp_path / str(threshold), threshold=threshold, decoding=ObjectDecoding()))
        found.append(np.count_nonzero(tifffile.imread(tmp_path / str(threshold) / "large.tif")))
    assert 0 < found[1] < found[0]
    with pytest.raises(ConfigError, match="threshold"):
        list(predict(model, [volume], tmp_path / "c", threshold=1.5))


@pytest.mark.parametrize("by_blocks", [False, True])
def test_resampled_the_labels_come_back_on_the_grid_of_the_image(by_blocks, tmp_path, volume, network, monkeypatch):
    if by_blocks:
        monkeypatch.setattr(blocks, "WHOLE_BYTES", 0)
    model = write_tiny_model(tmp_path, voxel_size=(2.0, 1.0, 1.0))
    with pytest.raises(CellTrainError, match="Have the image resampled"):
        list(predict(model, [volume], tmp_path / "out"))
    list(predict(model, [volume], tmp_path / "out", resample=True))
    result = open_volume(tmp_path / "out" / "large.tif")
    assert result.shape == SHAPE
    assert result.voxel_size == VOXEL_SIZE
    labels = result.read()
    assert labels.max() > 3
    image = tifffile.imread(volume)
    assert image[labels > 0].mean() > 1.5 * image[labels == 0].mean()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two worker processes of one thread each."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as local:
        yield local.scheduler_address


@pytest.mark.slow
def test_two_dask_workers_give_the_labels_of_one_process(cluster, tmp_path, volume, some_blocks):
    model = write_tiny_model(tmp_path, objects=LEARNED.model_copy(update={"seed_level": 0.0}), threshold=0.4)
    list(predict(model, [volume], tmp_path / "one", threads=1))
    events = list(predict(model, [volume], tmp_path / "two", dask=cluster))
    assert "the dask cluster" in messages(events)
    found, expected = (tifffile.imread(tmp_path / folder / "large.tif") for folder in ("two", "one"))
    assert expected.max() > 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_what_a_worker_refuses_is_said(cluster, tmp_path, volume, some_blocks, monkeypatch):
    def vanish(path: Path, *arguments: object) -> blocks.BlockStore:
        store = blocks.create_store(path, *arguments)
        (path / "plan.json").write_text("{")
        return store

    monkeypatch.setattr("napari_celltrain.predict.volumes.create_store", vanish)
    with pytest.raises(DataError, match="is damaged"):
        list(predict(write_tiny_model(tmp_path), [volume], tmp_path / "out", dask=cluster))


def test_no_scheduler_is_one_sentence(tmp_path, volume, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("napari_celltrain.predict.cluster._SECONDS_TO_CONNECT", 0.2)
    with pytest.raises(CellTrainError, match=r"No dask scheduler answers at tcp://127.0.0.1:9"):
        list(predict(write_tiny_model(tmp_path), [volume], tmp_path / "out", dask="tcp://127.0.0.1:9"))


def test_without_distributed_it_says_what_to_install(tmp_path, volume, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"napari-celltrain\[cluster\]"):
        list(predict(write_tiny_model(tmp_path), [volume], tmp_path / "out", dask="tcp://127.0.0.1:9"))
