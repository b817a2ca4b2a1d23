"""A run folder and a model that version 0.1.0 wrote (``v0.1.0/``, stopped after epoch 2 of 4) are watched, resumed and
used.

Its network is a tiny one that the test registers, so that the folder is small; its data are those of ``balls``.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from balls import make_pair, write_pairs
from napari_celltrain.engine.precision import NumericFormat
from napari_celltrain.io.tensors import read_tensors, write_tensors
from napari_celltrain.io.volumes import open_labels, open_volume
from napari_celltrain.nets.models import MODELS, Architecture, NetworkSpec, build_network
from napari_celltrain.predict.volumes import predict
from napari_celltrain.registry import Entry
from napari_celltrain.runs import process, session
from napari_celltrain.runs.checkpoint import LAST, LAST_OF_0_1, read_last
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import load_model, read_card
from napari_celltrain.values.config import DataConfig, RunConfig
from napari_celltrain.values.events import Finished, Started, Validated

OLD = Path(__file__).parent / "v0.1.0"


def build_tiny(spec: NetworkSpec) -> Architecture:
    module = nn.Sequential(
        nn.Conv3d(spec.in_channels, 6, 3, padding=1),
        nn.InstanceNorm3d(6, affine=True),
        nn.ReLU(),
        nn.Conv3d(6, spec.out_channels, 3, padding=1),
    )
    return Architecture(module, (1, 1, 1))


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the old run beside its data, with the paths that they have now."""
    entries = dict(MODELS._entries, tiny=Entry("tiny", "Tiny", "For this test.", build_tiny))
    monkeypatch.setattr(MODELS, "_entries", entries)
    write_pairs(tmp_path / "DATA", ["a", "b", "c"])
    path = Path(shutil.copytree(OLD, tmp_path / "results" / "v0.1.0"))
    for name in ("config.yaml", "data.json"):
        text = (path / name).read_text()
        text = text.replace("DATA/", f"{tmp_path / 'DATA'}/").replace("RESULTS", str(path.parent))
        (path / name).write_text(text)
    return RunFolder.open(path)


def test_is_watched(old_run: RunFolder) -> None:
    events = list(process.watch(old_run))
    assert isinstance(events[-1], Finished)
    assert events[-1].best_dice == pytest.approx(0.49696, abs=1e-5)
    assert [event.epoch for event in events if isinstance(event, Validated)] == [1, 2]


def test_is_resumed_where_it_was(old_run: RunFolder) -> None:
    """The figures are those of version 0.1.0, which trained all four epochs without a stop."""
    threads = torch.get_num_threads()
    events: list[Any] = list(session.resume(old_run.path))
    torch.set_num_threads(threads)
    started = next(event for event in events if isinstance(event, Started))
    assert started.first_epoch == 3
    assert not any(event.event == "warned" and "have changed" in event.message for event in events)
    rows = list(csv.DictReader((old_run.path / "metrics.csv").read_text().splitlines()))
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"]]
    assert losses == pytest.approx([2.47692, 2.18166, 1.87686, 1.78359], abs=1e-3)
    assert float(rows[-1]["val_dice"]) == pytest.approx(0.7548, abs=5e-3)
    assert events[-1].epoch == 4
    assert (old_run.path / LAST).exists()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_its_moments_are_laid_out_as_their_weights(old_run: RunFolder, layout: Any) -> None:
    """Version 0.1 stored tensors contiguous, whatever the layout of the network; the fused optimizer needs its own."""
    path = old_run.path / LAST_OF_0_1
    tensors, meta = read_tensors(path)
    write_tensors(path, tensors, meta | {"layout": layout})
    checkpoint = read_last(old_run)
    numeric_format = NumericFormat("float32", layout)
    assert checkpoint.numeric_format == numeric_format
    network = build_network(NetworkSpec(key="tiny", out_channels=3))
    numeric_format.lay_out(network, torch.device("cpu"))
    for index, weight in enumerate(network.parameters()):
        for name in ("exp_avg", "exp_avg_sq"):
            moment = checkpoint.state["moments"][index][name]
            assert torch.equal(moment, tensors[f"optimizer/{index}/{name}"])
            in_memory = [
                torch.as_strided(t, (t.numel(),), (1,)) for t in (moment, torch.empty_like(weight).copy_(moment))
            ]
            assert torch.equal(*in_memory)


def test_outliers_are_left_alone_as_they_were(old_run: RunFolder) -> None:
    assert DataConfig().limit_outliers
    assert not old_run.read_config().data.limit_outliers
    assert not read_card(old_run.path).limit_outliers
    old_run.write_config(RunConfig())
    assert old_run.read_config().data.limit_outliers


def test_its_model_is_used(old_run: RunFolder, tmp_path: Path) -> None:
    assert read_card(old_run.path).training.package_version == "0.1.0"
    assert load_model(old_run.path, torch.device("cpu")).card.network.key == "tiny"
    list(predict(old_run.path, [tmp_path / "DATA" / "images" / "a.tif"], tmp_path / "out"))
    predicted = open_labels(tmp_path / "out" / "a.tif").read()
    assert predicted.shape == make_pair(0)[0].shape
    stored = open_volume(old_run.path / "validation" / "a.tif").read()
    assert ((predicted > 0) != (stored > 0)).mean() < 1e-3
