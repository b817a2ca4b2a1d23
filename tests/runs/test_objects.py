"""Runs that learn objects, and runs that do not."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import yaml

from napari_celltrain.evaluate.evaluation import evaluate_run
from napari_celltrain.predict.volumes import predict
from napari_celltrain.runs import session
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import read_card
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import ConfigError
from napari_celltrain.values.events import Finished, Logged, Started, finish

pytestmark = pytest.mark.usefixtures("plain_plots")


def run(config):
    events = list(session.run(config))
    name = next(event.run for event in events if isinstance(event, Started))
    return events, RunFolder.open(config.data.results / name)


@pytest.fixture(scope="module")
def objects_run(tmp_path_factory, balls):
    from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig

    results = tmp_path_factory.mktemp("objects")
    config = RunConfig(
        data=DataConfig(images=balls[0], labels=balls[1], results=results),
        augmentation=AugmentationConfig(patch_size=(16, 32, 32), samples_per_volume=6),
        training=TrainingConfig(epochs=4, model_size="small", learning_rate=5e-3, warmup_steps=5),
    )
    return (*run(config), config)


def test_objects_are_learned_where_labels_number_them_and_the_decoding_is_kept(objects_run):
    events, folder, _ = objects_run
    card = read_card(folder.path)
    assert card.target == "objects"
    assert card.network.out_channels == 3
    assert isinstance(card.objects, ObjectDecoding)
    assert any("Objects are separated by" in event.message for event in events if isinstance(event, Logged))


def test_the_final_f1_is_that_of_the_files_by_the_evaluation(objects_run):
    events, folder, _ = objects_run
    finished = next(event for event in events if isinstance(event, Finished))
    scores = finish(evaluate_run(folder.path)).pooled
    assert scores.objects.f1 == pytest.approx(finished.best_f1)
    assert scores.voxels.dice == pytest.approx(finished.best_dice)
    assert read_card(folder.path).training.validation_f1 == pytest.approx(finished.best_f1)


def test_predict_gives_the_validation_files_of_the_run(objects_run, tmp_path):
    _, folder, config = objects_run
    [written] = (folder.path / "validation").iterdir()
    list(predict(folder.path, [config.data.images / written.name], tmp_path / "out"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / written.name), tifffile.imread(written))


def test_objects_can_be_decoded_otherwise(objects_run, tmp_path):
    _, folder, config = objects_run
    [written] = (folder.path / "validation").iterdir()
    found = {}
    for method in ("components", "learned"):
        decoding = ObjectDecoding(method=method, seed_distance_um=0.6, context_um=6)
        list(predict(folder.path, [config.data.images / written.name], tmp_path / method, decoding=decoding))
        found[method] = tifffile.imread(tmp_path / method / written.name)
    np.testing.assert_array_equal(found["components"] > 0, found["learned"] > 0)
    assert found["learned"].max() > found["components"].max()


def test_previews_are_objects(objects_run):
    _, folder, _ = objects_run
    preview = tifffile.imread(sorted((folder.path / "previews").iterdir())[-1])
    assert preview.max() > 1


def test_foreground_alone_can_be_learned_from_objects(make_config):
    events, folder = run(make_config(target="foreground"))
    card = read_card(folder.path)
    assert card.network.out_channels == 1
    assert card.objects is not None
    assert card.objects.method in ("components", "watershed")
    assert next(event for event in events if isinstance(event, Finished)).best_f1 is not None


def test_a_mask_has_no_objects_to_learn(make_config):
    with pytest.raises(ConfigError, match="number them"):
        list(session.run(make_config(target="objects", data_label_kind="foreground")))
    _, folder = run(make_config(data_label_kind="foreground"))
    card = yaml.safe_load((folder.path / "model/model.yaml").read_text())
    assert (card["target"], card["objects"]) == ("foreground", None)
