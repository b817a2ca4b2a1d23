"""Packages and ONNX files, by the libraries of others: they must get what we get."""

from __future__ import annotations

import functools
import zipfile

import numpy as np
import pytest
import torch
import yaml
from pydantic_core import ValidationError

from balls import make_pair
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.io.writer import write_volume
from napari_celltrain.nets.normalize import normalize
from napari_celltrain.predict.volumes import predict
from napari_celltrain.runs.model import load_model, read_card
from napari_celltrain.share import export as export_module
from napari_celltrain.share.export import export, run_package
from napari_celltrain.share.metadata import Metadata
from napari_celltrain.share.source_model import load_source_model
from napari_celltrain.values.errors import ConfigError, ModelFileError
from napari_celltrain.values.events import Warned
from shared_models import METADATA, WINDOW, camera_image, write_network
from tiny_models import VOXEL_SIZE, write_tiny_model

core = pytest.importorskip("bioimageio.core", reason="needs the extra `share`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # bioimageio.spec leaves files open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

IMAGES = {
    "of a camera": camera_image(1),
    "with negative values": (camera_image(2).astype(np.float32) - 300) / 100,
    "of few values": (camera_image(3) > 500).astype(np.uint8),
    "empty": np.full(WINDOW, 7, np.uint16),
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The run folder of learned objects, and its package."""
    folder = tmp_path_factory.mktemp("objects")
    run = write_tiny_model(folder, limit_outliers=True)
    list(export(run, "bioimageio", folder / "x.zip", METADATA))
    return run, folder / "x.zip"


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """As ``objects``, of classes by a network that takes any size, normalized by mean and deviation."""
    folder = tmp_path_factory.mktemp("classes")
    run = write_network(
        folder,
        "trailmap",
        label_kind="classes",
        class_values=(0, 7),
        normalization="zscore",
        voxel_size=None,
        limit_outliers=True,
    )
    list(export(run, "bioimageio", folder / "x.zip", Metadata()))
    return run, folder / "x.zip"


def description(path):
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name in ("rdf.yaml", "bioimageio.yaml"))
        return yaml.safe_load(archive.read(name))


@pytest.fixture(scope="module")
def described():
    """Loads the description of a package, once each: to validate it takes longer than to compute."""

    @functools.cache
    def load(path):
        return core.load_model_description(path)

    return load


@pytest.mark.parametrize("which", ["objects", "classes"])
def test_the_library_finds_nothing_wrong(which, request):
    summary = core.test_model(request.getfixturevalue(which)[1], devices=["cpu"])
    assert summary.status == "passed", summary.format()


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("which", ["objects", "classes"])
def test_the_library_computes_the_same(which, image, described, request):
    """From the raw image: normalization, network and activation are all the library's."""
    run, path = request.getfixturevalue(which)
    model = load_source_model(run)
    found = run_package(described(path), image)
    np.testing.assert_allclose(found, model.probabilities(model.logits(model.normalized(image))), atol=1e-4)


def test_the_library_compresses_outliers_too(objects, described):
    image = camera_image(4).astype(np.float32)
    image[3, 4, 5:7] = 1e6, -1e5
    model = load_source_model(objects[0])
    as_predicted = torch.from_numpy(normalize(image, model.card.measure(image))[None, None])
    with torch.inference_mode():
        expected = model.probabilities(model.network(as_predicted).numpy())
    np.testing.assert_allclose(run_package(described(objects[1]), image), expected, atol=1e-4)


def test_by_the_librarys_shortest_way_too(objects):
    run, path = objects
    model = load_source_model(run)
    image = IMAGES["of a camera"]
    sample = core.predict(model=path, inputs={"image": image[None, None]})
    found = sample.members["probabilities"].data
    np.testing.assert_allclose(found, model.probabilities(model.logits(model.normalized(image))), atol=1e-4)


def test_the_description_tells_what_it_is(objects):
    model = description(objects[1])
    assert (model["name"], model["license"]) == (METADATA.name, "CC-BY-4.0")
    assert model["authors"][0]["orcid"] == "0000-0002-1825-0097"
    assert model["cite"][0]["doi"] == "10.1234/nuclei.5"
    image, maps = model["inputs"][0], model["outputs"][0]
    assert [axis.get("size") for axis in image["axes"][2:]] == list(WINDOW)
    assert [axis["scale"] for axis in image["axes"][2:]] == list(VOXEL_SIZE)
    assert maps["axes"][1]["channel_names"] == ["foreground", "distance", "boundary"]
    assert maps["postprocessing"][0]["id"] == "sigmoid"
    assert model["config"]["celltrain"]["validation"]["voxel_dice"] == 0.875
    assert model["config"]["celltrain"]["objects"]["method"] == "learned"


def test_voxel_sizes_that_do_not_divide_exactly_are_taken(tmp_path):
    voxel_size = (1.75, 0.8, 0.8)
    assert 48 * 0.8 / 0.8 != 48  # how the library computes the size of the output
    run = write_tiny_model(tmp_path, window=(16, 48, 48), voxel_size=voxel_size)
    list(export(run, "bioimageio", tmp_path / "x.zip", METADATA))
    scales = [axis["scale"] for axis in description(tmp_path / "x.zip")["inputs"][0]["axes"][2:]]
    np.testing.assert_allclose(scales, voxel_size, rtol=1e-7)


def test_a_description_that_is_refused_as_a_whole_names_no_field(objects, tmp_path, monkeypatch):
    def refuse(*_):
        detail = {"type": "value_error", "loc": (), "input": {}, "ctx": {"error": ValueError("axes differ")}}
        raise ValidationError.from_exception_data("model", [detail])

    monkeypatch.setattr(export_module, "describe_model", refuse)
    with pytest.raises(ConfigError, match=r"does not take the description as a whole: .*axes differ"):
        list(export(objects[0], "bioimageio", tmp_path / "x.zip", METADATA))


def test_a_network_that_takes_any_size_says_so(classes):
    model = description(classes[1])
    assert model["inputs"][0]["axes"][2]["size"] == {"min": 16, "step": 8}
    assert model["outputs"][0]["axes"][1]["channel_names"] == ["class_0", "class_7"]
    assert model["outputs"][0]["postprocessing"][0]["id"] == "softmax"


def test_the_model_comes_back(objects):
    run, path = objects
    assert read_card(path) == read_card(run)
    expected = load_model(run, torch.device("cpu")).predictor.network.state_dict()
    found = load_model(path, torch.device("cpu")).predictor.network.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_package_segments_as_the_run_does(objects, tmp_path):
    run, path = objects
    write_volume(tmp_path / "image.tif", make_pair(5, (20, 40, 36))[0], VOXEL_SIZE)
    for model, out in ((run, "a"), (path, "b")):
        list(predict(model, [tmp_path / "image.tif"], tmp_path / out, device="cpu"))
    results = [open_volume(tmp_path / out / "image.tif").read() for out in "ab"]
    np.testing.assert_array_equal(*results)


def test_a_package_can_be_exported_again(objects, tmp_path):
    list(export(objects[1], "torchscript", tmp_path / "x.pt", Metadata()))
    assert (tmp_path / "x.pt").exists()


def test_what_is_left_open_is_warned_of(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "write_package", lambda path, *_: path.write_bytes(b"x") * 0.0)
    events = list(export(classes[0], "bioimageio", tmp_path / "x.zip", Metadata()))
    (warning,) = [event.message for event in events if isinstance(event, Warned)]
    assert "--author" in warning
    assert "--license" in warning


def test_a_licence_that_is_none_is_refused(objects, tmp_path):
    with pytest.raises(ConfigError, match="license"):
        list(export(objects[0], "bioimageio", tmp_path / "x.zip", Metadata(license="my own")))
    assert not list(tmp_path.iterdir())


def test_a_package_that_computes_something_else_is_not_kept(objects, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "run_package", lambda *_: np.zeros((1, 3, *WINDOW), np.float32))
    (tmp_path / "x.zip").write_bytes(b"the old one")
    with pytest.raises(ModelFileError, match="other results"):
        list(export(objects[0], "bioimageio", tmp_path / "x.zip", Metadata(), replace=True))
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]
    assert (tmp_path / "x.zip").read_bytes() == b"the old one"


def test_where_tracing_fails_the_weights_are_onnx(objects, tmp_path, monkeypatch):
    def fail(*_):
        raise ModelFileError("no")

    monkeypatch.setattr(export_module, "write_torchscript", fail)
    list(export(objects[0], "bioimageio", tmp_path / "x.zip", Metadata()))
    assert list(description(tmp_path / "x.zip")["weights"]) == ["onnx"]


def test_onnx_computes_the_same(objects, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    list(export(objects[0], "onnx", tmp_path / "x.onnx", Metadata()))
    model = load_source_model(objects[0])
    batch = np.concatenate([model.normalized(camera_image(seed)) for seed in range(3)])
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": batch})[0], model.logits(batch), atol=1e-4)
    assert yaml.safe_load(session.get_modelmeta().custom_metadata_map["model.yaml"])["training"]["epoch"] == 7
