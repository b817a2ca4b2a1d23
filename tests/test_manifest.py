"""What napari reads of the package before it imports anything of it."""

from __future__ import annotations

import numpy as np
import pytest
from npe2 import PluginManager, PluginManifest

import napari_celltrain

NAME = "napari-celltrain"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_distribution(NAME)


def test_manifest_is_valid_and_what_it_names_can_be_imported(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    assert manifest.display_name == "CellTrain"
    assert manifest.package_version == napari_celltrain.__version__


def test_every_command_is_used_and_begins_with_the_package_name(manifest: PluginManifest) -> None:
    contributions = manifest.contributions
    commands = {command.id for command in contributions.commands or ()}
    used = {sample.command for sample in contributions.sample_data or ()}
    used |= {widget.command for widget in contributions.widgets or ()}
    assert commands == used
    assert all(command.startswith(f"{NAME}.") for command in commands)


def test_sample_opens_as_an_image_and_its_labels(manifest: PluginManifest) -> None:
    manager = PluginManager()
    manager.register(manifest)
    manager.activate(NAME)
    sample = next(sample for sample in manifest.contributions.sample_data if sample.key == "nuclei")
    (image, image_settings, image_kind), (labels, label_settings, labels_kind) = sample.open(_registry=manager.commands)
    assert (image_kind, labels_kind) == ("image", "labels")
    assert image.shape == labels.shape
    assert image_settings["scale"] == label_settings["scale"]
    assert np.issubdtype(labels.dtype, np.integer)
