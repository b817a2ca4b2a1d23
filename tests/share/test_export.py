"""Models that are given away: they compute the same elsewhere, or are not written."""

from __future__ import annotations

import json
import sys
import zipfile

import numpy as np
import pytest
import torch
import yaml

from napari_celltrain.io.writer import write_volume
from napari_celltrain.nets.models import MODELS
from napari_celltrain.nets.normalize import normalize
from napari_celltrain.runs.model import read_card
from napari_celltrain.share import source_model
from napari_celltrain.share.description import PAPERS, readme
from napari_celltrain.share.export import export
from napari_celltrain.share.metadata import Metadata, default_name, parse_citation, parse_person
from napari_celltrain.share.source_model import example_image, load_source_model
from napari_celltrain.values.errors import ConfigError, ModelFileError
from napari_celltrain.values.events import Saved
from napari_celltrain.values.files import temporary
from shared_models import METADATA, WINDOW, camera_image, write_network
from tiny_models import write_tiny_model


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("shared"))


class TestMetadata:
    def test_a_person_may_have_everything(self):
        person = parse_person("Jane Doe; affiliation=A; orcid=0000-0002-1825-0097; github=jane; email=j@a.org")
        assert (person.name, person.affiliation, person.github, person.email) == ("Jane Doe", "A", "jane", "j@a.org")

    @pytest.mark.parametrize(
        "text",
        ["", "; orcid=0000-0002-1825-0097", "Jane; born=1980", "Jane; orcid=0000-0002-1825-0098", "A/B", "Jane; x"],
    )
    def test_a_person_that_is_not_understood_is_refused(self, text):
        with pytest.raises(ConfigError, match="--author"):
            parse_person(text)

    @pytest.mark.parametrize(
        ("text", "doi", "url"),
        [
            ("Doe 2026, doi:10.1234/ab.c.", "10.1234/ab.c", None),
            ("Doe (https://doi.org/10.1234/x)", "10.1234/x", None),
            ("Doe, https://example.org/paper.", None, "https://example.org/paper"),
        ],
    )
    def test_a_reference_is_found_by_its_doi_or_address(self, text, doi, url):
        citation = parse_citation(text)
        assert (citation.doi, citation.url) == (doi, url)

    def test_a_reference_without_either_is_refused(self):
        with pytest.raises(ConfigError, match="DOI"):
            parse_citation("Doe et al. 2026")

    def test_a_made_up_name_is_one_that_the_standard_takes(self):
        assert default_name("U-Net", "käfer_2026/ü") == "U-Net k-fer_2026-"


class TestReadme:
    def test_tells_what_a_user_must_know(self, run):
        text = readme(load_source_model(run), METADATA)
        for fact in (
            "0.875",
            "0.750",
            "1 × 0.5 × 0.5 µm",
            "4 volumes",
            "Misses dividing nuclei",
            "CC-BY-4.0",
            "Jane Doe",
        ):
            assert fact in text
        assert "10.1234/nuclei.5" in text
        assert "watershed on the learned distance" in text

    def test_tells_what_the_run_knows_of_its_data_but_no_names(self, tmp_path):
        run = write_tiny_model(tmp_path)
        pair = {"name": "secret", "image": "/home/jane/secret.tif", "side": "training", "num_objects": 17}
        pair |= {"labels": "secret.tif", "shape_zyx": [5, 6, 7], "dtype": "uint16"}
        (run / "data.json").write_text(json.dumps({"label_kind": "objects", "pairs": [pair]}))
        text = readme(load_source_model(run), Metadata(name="Nuclei"))
        assert "17 annotated objects" in text
        assert "5 × 6 × 7 voxels" in text
        assert "uint16" in text
        assert "secret" not in text

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"pairs": 3}', '{"pairs": [1]}'])
    def test_a_damaged_record_of_the_data_is_left_out(self, tmp_path, content):
        run = write_tiny_model(tmp_path)
        (run / "data.json").write_text(content)
        assert load_source_model(run).cases == ()

    def test_who_is_not_named_is_said_to_be_missing(self, run):
        assert "none was named" in readme(load_source_model(run), Metadata(name="Nuclei"))

    def test_every_network_has_its_paper(self):
        own = [entry.key for entry in MODELS if entry.build.__module__.startswith("napari_celltrain.")]
        assert set(PAPERS) == set(own)


class TestTargets:
    @pytest.mark.parametrize(
        ("name", "match"), [("x.zip", r"\.pt"), ("x", r"\.pt"), ("folder", "a folder"), ("none/x.pt", "no folder")]
    )
    def test_names_that_cannot_be_written_are_refused_first(self, tmp_path, name, match):
        (tmp_path / "folder").mkdir()
        with pytest.raises(ConfigError, match=match):
            list(export(tmp_path / "no run", "torchscript", tmp_path / name, Metadata()))

    def test_a_file_is_replaced_only_on_demand(self, run, tmp_path):
        (tmp_path / "x.pt").write_bytes(b"mine")
        with pytest.raises(ConfigError, match="--force"):
            list(export(run, "torchscript", tmp_path / "x.pt", Metadata()))
        assert (tmp_path / "x.pt").read_bytes() == b"mine"
        list(export(run, "torchscript", tmp_path / "x.pt", Metadata(), replace=True))
        assert (tmp_path / "x.pt").read_bytes() != b"mine"

    def test_what_a_killed_export_left_is_removed(self, run, tmp_path):
        living = temporary(tmp_path / "x.pt")
        dead = living.with_name(f"{living.stem.rpartition('-')[0]}-1.pt")  # a process that began at another time
        for path in (living, dead):
            path.write_bytes(b"half")
        list(export(run, "torchscript", tmp_path / "x.pt", Metadata()))
        assert {path.name for path in tmp_path.iterdir()} == {"x.pt", living.name}

    def test_a_run_without_a_model_says_so(self, tmp_path):
        (tmp_path / "config.yaml").touch()
        with pytest.raises(ModelFileError, match="no model yet"):
            list(export(tmp_path, "torchscript", tmp_path / "x.pt", Metadata()))

    def test_a_name_that_the_standard_forbids_is_refused(self, run, tmp_path):
        with pytest.raises(ConfigError, match="--name"):
            list(export(run, "bioimageio", tmp_path / "x.zip", Metadata(name="a")))

    def test_missing_packages_are_named_with_the_way_to_get_them(self, run, tmp_path, monkeypatch):
        for module in ("bioimageio.spec", "onnx"):
            monkeypatch.setitem(sys.modules, module, None)
        for kind, ending in (("onnx", "onnx"), ("bioimageio", "zip")):
            with pytest.raises(ConfigError, match=r"share"):
                list(export(run, kind, tmp_path / f"x.{ending}", Metadata()))
        assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """A TorchScript file."""
    path = tmp_path_factory.mktemp("written") / "x.pt"
    events = list(export(run, "torchscript", path, Metadata()))
    assert [event.path for event in events if isinstance(event, Saved)] == [str(path)]
    return path


class TestTorchScript:
    def test_computes_the_same(self, run, written):
        model = load_source_model(run)
        image = model.normalized(camera_image())
        traced = torch.jit.load(str(written))
        np.testing.assert_allclose(traced(torch.from_numpy(image)).detach(), model.logits(image), atol=1e-4)

    @pytest.mark.parametrize("normalization", ["percentile", "zscore"])
    @pytest.mark.parametrize("key", ["unet", "trailmap"])
    def test_outliers_are_compressed_as_predict_does_it(self, tmp_path, key, normalization):
        run = write_network(tmp_path, key, limit_outliers=True, normalization=normalization)
        list(export(run, "torchscript", tmp_path / "x.pt", Metadata()))
        model = load_source_model(run)
        image = camera_image().astype(np.float32)
        image[3, 4, 5:7] = 1e6, -1e5
        as_predicted = torch.from_numpy(normalize(image, model.card.measure(image))[None, None])
        traced = torch.jit.load(str(tmp_path / "x.pt"))
        with torch.inference_mode():
            found = traced(torch.from_numpy(model.normalized(image)))
            np.testing.assert_allclose(found, model.network(as_predicted), atol=1e-4)

    def test_brings_its_card(self, run, written):
        extra = {"model.yaml": ""}
        torch.jit.load(str(written), _extra_files=extra)
        assert yaml.safe_load(extra["model.yaml"])["training"]["run"] == read_card(run).training.run

    def test_does_not_tell_where_it_was_made(self, written):
        with zipfile.ZipFile(written) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
        assert str(source_model.__file__).rpartition("napari_celltrain")[0].encode() not in content

    def test_another_size_is_taken_where_no_layer_normalizes_over_the_window(self, tmp_path):
        run = write_network(tmp_path, "trailmap")
        list(export(run, "torchscript", tmp_path / "x.pt", Metadata()))
        model = load_source_model(run)
        image = np.random.default_rng(0).normal(size=(1, 1, 24, 40, 32)).astype(np.float32)
        traced = torch.jit.load(str(tmp_path / "x.pt"))
        np.testing.assert_allclose(traced(torch.from_numpy(image)).detach(), model.logits(image), atol=1e-4)

    def test_one_that_computes_something_else_is_not_kept(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(source_model, "TOLERANCE", -1.0)
        with pytest.raises(ModelFileError, match="differs from the original"):
            list(export(run, "torchscript", tmp_path / "x.pt", Metadata()))
        assert not list(tmp_path.iterdir())

    def test_one_that_cannot_be_traced_is_not_kept(self, run, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise RuntimeError("no such thing\nmore")

        for step in ("save", "trace"):
            monkeypatch.setattr(torch.jit, step, fail)
            with pytest.raises(ModelFileError, match=r"cannot be converted .*no such thing.*ONNX"):
                list(export(run, "torchscript", tmp_path / "x.pt", Metadata()))
        assert not list(tmp_path.iterdir())

    def test_a_full_disk_is_told(self, run, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch.jit, "save", fail)
        with pytest.raises(ModelFileError, match=r"x\.pt.*no space left"):
            list(export(run, "torchscript", tmp_path / "x.pt", Metadata()))
        assert not list(tmp_path.iterdir())


class TestAgreement:
    """What is held against the original, and what is noticed."""

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda logits: logits + 0.01,
            lambda logits: np.full_like(logits, np.nan),
            lambda logits: logits[:, :1],
            lambda logits: np.concatenate([logits[:1], logits[:1]]),
        ],
        ids=["shifted", "not numbers", "a channel short", "the second sample is the first"],
    )
    def test_other_results_are_noticed(self, run, wrong):
        model = load_source_model(run)
        examples = np.concatenate([model.normalized(camera_image(seed)) for seed in (0, 1)])
        with pytest.raises(ModelFileError, match="No file was written"):
            source_model.check_agreement(model, examples, wrong(model.logits(examples)))

    def test_rounding_is_not(self, run):
        model = load_source_model(run)
        examples = np.concatenate([model.normalized(camera_image(seed)) for seed in (0, 1)])
        assert source_model.check_agreement(model, examples, model.logits(examples) + 1e-6) < 1e-5


class TestExample:
    def test_is_made_up_alike_every_time(self):
        np.testing.assert_array_equal(example_image(WINDOW), example_image(WINDOW))
        assert example_image(WINDOW).std() > 50

    @pytest.mark.parametrize("shape", [(20, 40, 33), (5, 6, 7), (2, 40, 40)])
    def test_is_cut_from_an_image_of_any_size(self, tmp_path, shape):
        image = np.random.default_rng(0).integers(0, 999, shape).astype(np.uint16)
        write_volume(tmp_path / "a.tif", image)
        found = example_image(WINDOW, tmp_path / "a.tif")
        assert found.shape == WINDOW
        assert set(np.unique(found)) <= set(np.unique(image))

    def test_has_no_broken_voxels(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 999, (20, 40, 40)).astype(np.float32)
        image[8, 20, 20:22] = 1e6, -1e6
        write_volume(tmp_path / "a.tif", image)
        assert np.ptp(example_image(WINDOW, tmp_path / "a.tif")) < 1000
