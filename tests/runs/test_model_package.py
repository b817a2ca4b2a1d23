"""Models from a zip: good ones, and those of strangers."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_celltrain.nets.models import NetworkSpec, build_network
from napari_celltrain.runs import model as model_module
from napari_celltrain.runs import model_package
from napari_celltrain.runs.model import load_model, model_folder, read_card
from napari_celltrain.runs.model_package import CARD, PACKED_CARD, WEIGHTS
from napari_celltrain.values.errors import ModelFileError
from tiny_models import write_tiny_model

NETWORK = build_network(NetworkSpec(key="unet", size="small", out_channels=3))


def read_weights(path: Path):
    return model_module.read_weights(path, NETWORK)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def files(run):
    """The two files of a model, by their names in a package."""
    return {
        PACKED_CARD: (run / "model" / CARD).read_bytes(),
        WEIGHTS: (run / "model" / WEIGHTS).read_bytes(),
    }


def write_zip(path: Path, entries, compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def refused(path: Path, match: str) -> None:
    """Both ways into the file give the same one sentence."""
    with pytest.raises(ModelFileError, match=match) as caught:
        read_card(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelFileError, match=match):
        read_weights(path)


@pytest.mark.parametrize("folder", ["", "run/model/"])
@pytest.mark.parametrize("card", [PACKED_CARD, CARD])
def test_a_zipped_model_is_the_model(tmp_path, files, run, folder, card):
    entries = [(folder + card, files[PACKED_CARD]), (folder + WEIGHTS, files[WEIGHTS]), ("README.md", b"x")]
    path = write_zip(tmp_path / "model.zip", entries, zipfile.ZIP_DEFLATED)
    assert read_card(path) == read_card(run)
    expected = read_weights(run)
    found = read_weights(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_it_is_ready_to_use(tmp_path, files):
    path = write_zip(tmp_path / "MODEL.ZIP", files.items())
    model = load_model(path, torch.device("cpu"))
    assert model.predictor.num_outputs == 3
    assert list(tmp_path.iterdir()) == [path]  # nothing was unpacked


def test_weights_that_could_run_code_are_not_opened(tmp_path, files):
    path = write_zip(tmp_path / "model.zip", [*files.items(), ("weights.pt", b"not even TorchScript")])
    load_model(path, torch.device("cpu"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_zip_is_refused(tmp_path, files, share):
    path = write_zip(tmp_path / "model.zip", files.items())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "cut off or damaged")


def test_what_is_no_zip_is_refused(tmp_path):
    (tmp_path / "model.zip").write_bytes(b"GIF89a" * 100)
    refused(tmp_path / "model.zip", "not a zip file")


def test_a_changed_byte_is_found(tmp_path, files):
    path = write_zip(tmp_path / "model.zip", files.items())
    content = bytearray(path.read_bytes())
    place = content.index(files[WEIGHTS][-500:])
    content[place + 5] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="cut off or damaged"):
        read_weights(path)


@pytest.mark.parametrize(
    "name", ["../model.yaml", "a/../../b", "/etc/passwd", "..\\b", "C:/b", "a\\b", "..", "ok/../x"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, files, name):
    refused(write_zip(tmp_path / "model.zip", [*files.items(), (name, b"x")]), "leads out")


def test_links_are_refused(tmp_path, files):
    link = zipfile.ZipInfo(CARD)
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = write_zip(tmp_path / "model.zip", [(link, b"/etc/passwd"), (WEIGHTS, files[WEIGHTS])])
    refused(path, "a link")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", [WEIGHTS, WEIGHTS.upper()])
def test_two_files_of_one_name_are_refused(tmp_path, files, second):
    refused(write_zip(tmp_path / "model.zip", [*files.items(), (second, b"other")]), "two files")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, files):
    entries = [(PACKED_CARD, files[PACKED_CARD]), (WEIGHTS, bytes(20_000_000))]
    refused(write_zip(tmp_path / "model.zip", entries, zipfile.ZIP_DEFLATED), "unpacks to")


def test_a_card_of_absurd_size_is_refused(tmp_path, files):
    content = b"# " + bytes(range(33, 127)) * 20_000
    path = write_zip(tmp_path / "model.zip", [(PACKED_CARD, content), (WEIGHTS, files[WEIGHTS])])
    with pytest.raises(ModelFileError, match="more than a model may be"):
        read_card(path)


def test_weights_beyond_the_memory_are_refused(tmp_path, files, monkeypatch):
    path = write_zip(tmp_path / "model.zip", files.items())
    monkeypatch.setattr(model_package.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(ModelFileError, match="memory"):
        read_weights(path)


@pytest.mark.parametrize("shift", [-1000, 1000])
def test_a_size_that_is_not_true_is_found(tmp_path, files, shift):
    """The list of files tells another size than the data have."""
    path = write_zip(tmp_path / "model.zip", files.items())
    true = len(files[WEIGHTS])
    content = path.read_bytes().replace(true.to_bytes(4, "little"), (true + shift).to_bytes(4, "little"))
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"cut off|damaged|announced"):
        read_weights(path)


def test_an_encrypted_zip_is_refused(tmp_path, files):
    path = write_zip(tmp_path / "model.zip", files.items())
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the list of files
    path.write_bytes(content)
    refused(path, "encrypted")


def test_too_many_files_are_refused(tmp_path, files, monkeypatch):
    monkeypatch.setattr(model_package, "MAX_FILES", 1)
    refused(write_zip(tmp_path / "model.zip", files.items()), "holds 2 files")


@pytest.mark.parametrize("description", ["rdf.yaml", "bioimageio.yaml"])
def test_a_package_of_another_program_is_refused(tmp_path, description):
    path = write_zip(tmp_path / "model.zip", [(description, b"type: model"), ("weights.onnx", b"x")])
    refused(path, "of another program")


def test_a_zipped_run_without_a_model_says_so(tmp_path):
    refused(write_zip(tmp_path / "run.zip", [("run/config.yaml", b""), ("run/events.jsonl", b"")]), "no model yet")


def test_another_zip_is_refused(tmp_path):
    refused(write_zip(tmp_path / "photos.zip", [("a.jpg", b"x")]), "not a model of CellTrain")


def test_a_card_without_weights_is_refused(tmp_path, files):
    refused(write_zip(tmp_path / "model.zip", [(CARD, files[PACKED_CARD])]), WEIGHTS)


def test_several_models_in_one_zip_are_refused(tmp_path, files):
    entries = [(f"{run}/model/{name}", content) for run in "ab" for name, content in files.items()]
    refused(write_zip(tmp_path / "runs.zip", entries), "2 models")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [", b"surprise: 1"])
def test_a_damaged_card_is_refused(tmp_path, files, content):
    path = write_zip(tmp_path / "model.zip", [(PACKED_CARD, content), (WEIGHTS, files[WEIGHTS])])
    with pytest.raises(ModelFileError, match=r"model\.zip"):
        read_card(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{broken}", b"\x02\0\0\0\0\0\0\0[]"])
def test_damaged_weights_are_refused(tmp_path, files, content):
    path = write_zip(tmp_path / "model.zip", [(PACKED_CARD, files[PACKED_CARD]), (WEIGHTS, content)])
    with pytest.raises(ModelFileError, match="damaged"):
        read_weights(path)


def test_a_run_without_a_best_model_says_so(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ModelFileError, match="no model yet"):
        model_folder(tmp_path)


def test_a_forged_header_cannot_announce_what_is_not_there(tmp_path, files):
    """The size in the safetensors header is checked against the bytes that are there."""
    content = io.BytesIO(files[WEIGHTS])
    path = write_zip(tmp_path / "model.zip", [(PACKED_CARD, files[PACKED_CARD]), (WEIGHTS, content.getvalue()[:-64])])
    with pytest.raises(ModelFileError, match="damaged"):
        read_weights(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_damaged_stream_is_one_sentence(tmp_path, files, method):
    path = write_zip(tmp_path / "model.zip", [(PACKED_CARD, files[PACKED_CARD]), (WEIGHTS, b"")], method)
    content = bytearray(path.read_bytes())
    content[60:160] = bytes(byte ^ 0x5A for byte in content[60:160])
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.zip"):
        read_card(path)


def test_weights_far_larger_than_those_of_the_network_are_not_unpacked(tmp_path, files, monkeypatch):
    path = write_zip(tmp_path / "model.zip", [(PACKED_CARD, files[PACKED_CARD]), (WEIGHTS, bytes(40 * 2**20))])
    with pytest.raises(ModelFileError, match="more than a model may be"):
        read_weights(path)


def test_an_endless_list_of_files_is_not_read(tmp_path, files, monkeypatch):
    path = write_zip(tmp_path / "model.zip", [*files.items(), *((f"{number}", b"") for number in range(2000))])
    monkeypatch.setattr(model_package, "MAX_LIST_BYTES", 50_000)
    refused(path, "not a zip file")


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_no_zip(tmp_path, kind):
    path = tmp_path / "model.zip"
    (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    with pytest.raises(ModelFileError, match=r"model\.zip"):
        read_card(path)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_model_or_one_error(tmp_path, files, data):
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]))
    small = {PACKED_CARD: files[PACKED_CARD], WEIGHTS: files[WEIGHTS][:3000]}
    path = write_zip(tmp_path / "model.zip", small.items(), method)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)
    with contextlib.suppress(ModelFileError):
        read_card(path)
    with contextlib.suppress(ModelFileError):
        read_weights(path)
