"""Model files from strangers: damaged, impossible, or not for this network."""

from __future__ import annotations

import contextlib
import errno
import os

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from napari_celltrain.io.tensors import read_tensors, write_tensors
from napari_celltrain.nets.models import NetworkSpec, build_network
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import ModelCard, TrainingSummary, card_to_yaml, load_model, read_card, write_model
from napari_celltrain.values.errors import ModelFileError, RunFolderError

SUMMARY = TrainingSummary(
    run="r", epoch=1, validation_dice=0.5, num_training=1, num_validation=1, loss="dice", package_version="0"
)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    folder = RunFolder.create(tmp_path, "run", "unet")
    card = ModelCard(network=NetworkSpec(key="unet", size="small"), window=(16, 16, 16), training=SUMMARY)
    network = build_network(card.network)
    write_model(folder, card, network.state_dict())
    return folder, network


def change(folder, **values):
    path = folder.model / "model.yaml"
    card = yaml.safe_load(path.read_text())
    for name, value in values.items():
        section, _, key = name.rpartition("__")
        (card[section] if section else card)[key] = value
    path.write_text(yaml.safe_dump(card))


def test_what_is_written_is_what_is_read(model):
    folder, network = model
    loaded = load_model(folder.path, torch.device("cpu"))
    assert loaded.card == read_card(folder.model / "model.yaml")
    for name, tensor in loaded.predictor.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])


@pytest.mark.parametrize(
    "values",
    [
        {"window": [0, 0, 0]},
        {"window": [-1, 16, 16]},
        {"window": [1, 1, 1]},
        {"window": [100_000, 100_000, 100_000]},
        {"voxel_size": [0, 0, 0]},
        {"voxel_size": [-1, 1, 1]},
        {"channel": -3},
        {"threshold": 1e-320},
        {"label_kind": "classes"},
        {"label_kind": "classes", "class_values": [1]},
        {"label_kind": "classes", "class_values": [0, 10**20], "network__out_channels": 2},
        {"network__out_channels": 10**9},
        {"network__key": "nonesuch"},
        {"surprise": 1},
    ],
)
def test_impossible_cards_are_refused_in_one_sentence(model, values):
    folder, _ = model
    change(folder, **values)
    with pytest.raises(ModelFileError, match=r"model\.yaml"):
        load_model(folder.path, torch.device("cpu"))


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{broken}", b"\xff\xff\xff\xff\xff\xff\xff\x7f"]
)
def test_damaged_weights_are_refused(model, content):
    folder, _ = model
    (folder.model / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(folder.path, torch.device("cpu"))


def test_truncated_weights_are_refused(model):
    folder, _ = model
    path = folder.model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(folder.path, torch.device("cpu"))


def test_weights_that_are_not_numbers_are_refused(model):
    folder, network = model
    state = {name: torch.full_like(tensor, np.nan) for name, tensor in network.state_dict().items()}
    folder.write_with("model/model.safetensors", lambda path: write_tensors(path, state, {}))
    with pytest.raises(ModelFileError, match="not numbers"):
        load_model(folder.path, torch.device("cpu"))


@pytest.mark.parametrize("aliases", [{"a": [1]}, {"a": "missing"}, ["a"], 3])
def test_strange_aliases_are_refused(tmp_path, aliases):
    import json

    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"celltrain": json.dumps({"aliases": aliases})})
    with pytest.raises(ModelFileError, match="damaged"):
        read_tensors(path)


def test_a_tensor_of_two_names_is_stored_once(tmp_path):
    tensor = torch.arange(1000.0)
    write_tensors(tmp_path / "a", {"one": tensor, "two": tensor}, {"number": 3})
    tensors, meta = read_tensors(tmp_path / "a")
    assert torch.equal(tensors["one"], tensor)
    assert torch.equal(tensors["two"], tensor)
    assert meta == {"number": 3}
    assert (tmp_path / "a").stat().st_size < 6000


def test_a_full_disk_is_told_as_one(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="x") as caught:
        write_tensors(tmp_path / "x", {}, {})
    assert caught.value.errno == errno.ENOSPC
    folder = RunFolder.create(tmp_path, "run", "unet")
    with pytest.raises(RunFolderError, match="space"):
        folder.write_with("checkpoints/last.safetensors", lambda path: write_tensors(path, {}, {}))
    assert not list((folder.path / "checkpoints").iterdir())


def test_a_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(ModelFileError, match="neither"):
        read_card(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="not a model"):
        read_card(tmp_path / "weights.pt")
    with pytest.raises(ModelFileError, match="no run folder or model"):
        read_card(tmp_path / "missing")


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "complex64"])
def test_numbers_of_a_type_that_no_model_has_are_refused(model, name):
    from safetensors.torch import save_file

    folder, network = model
    state = {key: tensor.to(getattr(torch, name)) for key, tensor in network.state_dict().items()}
    save_file(state, folder.model / "model.safetensors")
    with pytest.raises(ModelFileError, match=name):
        load_model(folder.path, torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"in_channels": 10**9}}, "several channels"),
        ({"network": {"out_channels": 10**9}}, "outputs"),
        ({"class_values": list(range(10_000))}, "class_values"),
        ({"window": [1290, 1290, 1290]}, "GB are free"),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_taken(model, changes, message):
    folder, _ = model
    path = folder.model / "model.yaml"
    card = yaml.safe_load(path.read_text())
    card["network"] |= changes.pop("network", {})
    path.write_text(yaml.safe_dump(card | changes))
    with pytest.raises(ModelFileError, match=message):
        load_model(folder.path, torch.device("cpu"))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "pipe", "loop"])
def test_what_is_no_model_is_one_sentence(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ModelFileError, match="model"):
        read_card(tmp_path / name)


@pytest.mark.parametrize("name", ["model.yaml", "model.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_refused(model, name):
    folder, _ = model
    (folder.model / name).unlink()
    os.mkfifo(folder.model / name)
    with pytest.raises(ModelFileError, match="a pipe or a device"):
        load_model(folder.path, torch.device("cpu"))


@given(st.text(max_size=40), st.integers(0, 2000), st.integers(0, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
def test_any_card_is_a_card_or_one_error(model, junk, place, length):
    folder, _ = model
    text = card_to_yaml(ModelCard(network=NetworkSpec(key="unet"), window=(16, 16, 16), training=SUMMARY))
    place %= len(text)
    content = text[:place] + junk + text[place + length :]
    (folder.model / "model.yaml").write_text(content, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(ModelFileError):
        read_card(folder.path)
