"""``celltrain export``."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from napari_celltrain.cli.main import app
from napari_celltrain.share import export as sharing
from napari_celltrain.share.metadata import Metadata
from napari_celltrain.values.errors import CellTrainError, ConfigError
from napari_celltrain.values.events import Saved
from tiny_models import write_tiny_model


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, CellTrainError):
        raise result.exception
    return result


@pytest.fixture
def asked(monkeypatch):
    """What reaches the exporter."""
    calls = []

    def export(*arguments, **options):
        calls.append((arguments, options))
        yield Saved(what="model", path=str(arguments[2]), epoch=1)

    monkeypatch.setattr(sharing, "export", export)
    return calls


def test_writes_a_file(tmp_path):
    run = write_tiny_model(tmp_path)
    result = invoke("export", run, "--format", "torchscript", "--output", tmp_path / "x.pt")
    assert result.exit_code == 0
    assert (tmp_path / "x.pt").exists()
    assert "x.pt" in result.output


def test_the_options_make_the_card(asked, tmp_path):
    invoke(
        *("export", tmp_path, "-o", tmp_path / "x.zip", "--name", "Nuclei", "--description", "D", "--license", "MIT"),
        *("--author", "Jane; github=jane", "--author", "Jo", "--cite", "Doe, 10.1234/x", "--data", "Mice"),
        *("--limits", "Dark ones", "--tag", "mouse", "--halo", "--force", "--sample", tmp_path / "a.tif"),
    )
    ((_, chosen, _, metadata), options) = asked[0]
    assert chosen == "bioimageio"
    assert isinstance(metadata, Metadata)
    assert [person.name for person in metadata.authors] == ["Jane", "Jo"]
    assert (metadata.name, metadata.description, metadata.license, metadata.data) == ("Nuclei", "D", "MIT", "Mice")
    assert (metadata.cite[0].doi, metadata.limits) == ("10.1234/x", "Dark ones")
    assert (metadata.tags, metadata.halo) == (("mouse",), True)
    assert options == {"sample": tmp_path / "a.tif", "replace": True}


def test_programs_get_events(asked, tmp_path):
    result = invoke("export", tmp_path, "-o", tmp_path / "x.zip", "--json")
    assert json.loads(result.output)["event"] == "saved"


def test_what_is_not_understood_is_refused_before_anything_is_read(asked, tmp_path):
    with pytest.raises(ConfigError, match="--author"):
        invoke("export", tmp_path, "-o", tmp_path / "x.zip", "--author", "Jane; born=1980")
    assert not asked
