"""Real runs on small volumes: their files, their numbers, how they end, and how they go on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from scipy import ndimage

from balls import VOXEL_SIZE, make_pair, write_pairs
from checkpoints import tensors_of
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.io.writer import write_volume
from napari_celltrain.predict.volumes import predict
from napari_celltrain.runs import session
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.prepare import Unchanged
from napari_celltrain.values import files
from napari_celltrain.values.errors import CellTrainError, ConfigError, DataError, ModelFileError, RunFolderError
from napari_celltrain.values.events import EpochDone, Finished, Logged, Saved, Started, StepDone, Validated, Warned

pytestmark = pytest.mark.usefixtures("plain_plots")  # not for the run that is shared: what is shared is made before

# As a user has it; the format that an equal run has found here is remembered.
AUTOMATIC = {"precision": "auto", "memory_layout": "auto", "threads": None}


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def run(config):
    """All events of a run, and its folder."""
    events = list(session.run(config))
    return events, RunFolder.open(config.data.results / of(Started, events)[0].run)


def losses(events):
    return [event.loss for event in of(StepDone, events)]


def last_tensors(folder):
    return tensors_of(folder.path / "checkpoints/last.pt")


def assert_same_tensors(a, b):
    assert a.keys() == b.keys()
    different = [name for name in a if not np.array_equal(a[name].numpy(), b[name].numpy())]
    assert not different


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run long enough to learn the balls, with all its plots and the numeric format of its choice; shared by the
    tests that only look at it."""
    from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig

    base = tmp_path_factory.mktemp("learned")
    images, labels = write_pairs(base, ["a_1", "b_1", "c_1", "d_1"])
    config = RunConfig(
        data=DataConfig(images=images, labels=labels, results=base / "results"),
        augmentation=AugmentationConfig(patch_size=(16, 32, 32), samples_per_volume=8),
        training=TrainingConfig(
            epochs=8, validation_interval=2, model_size="small", learning_rate=5e-3, warmup_steps=5
        ),
    )
    events, folder = run(config)
    return config, events, folder


def test_a_run_learns_and_leaves_a_complete_folder(learned):
    _config, events, folder = learned
    finished = of(Finished, events)[0]
    assert finished.best_dice > 0.8
    assert finished.reason == "epochs"
    steps = of(Started, events)[0].steps_per_epoch
    assert steps == 3 * 8 // 2
    assert len(of(StepDone, events)) == 8 * steps
    assert [event.epoch for event in of(EpochDone, events)] == list(range(1, 9))
    assert [event.epoch for event in of(Validated, events)] == [2, 4, 6, 8]
    files = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
    name = json.loads(folder.data_file.read_text())["pairs"]
    held_out = next(pair["name"] for pair in name if pair["side"] == "validation")
    assert files == {
        "config.yaml",
        "data.json",
        "environment.json",
        "events.jsonl",
        "metrics.csv",
        "training.log",
        "training.png",
        "training_final.png",
        "training_final.svg",
        "checkpoints/last.pt",
        "checkpoints/best.safetensors",
        *(f"previews/epoch_{epoch:04d}.tif" for epoch in (2, 4, 6, 8)),
        f"validation/{held_out}.tif",
        "model/model.safetensors",
        "model/model.yaml",
    }


def test_the_folder_tells_what_the_events_told(learned):
    _, events, folder = learned
    written = list(folder.read_events())
    assert all(event.time > 0 for event in written)
    assert [event.model_copy(update={"time": 0.0}) for event in written] == [
        event.model_copy(update={"time": 0.0}) for event in events
    ]


def test_scores_equal_those_of_the_saved_files(learned):
    _, events, folder = learned
    finished = of(Finished, events)[0]
    overlap = total = 0
    for path in sorted(folder.validation.iterdir()):
        predicted = tifffile.imread(path)
        record = json.loads(folder.data_file.read_text())["pairs"]
        truth = tifffile.imread(next(pair["labels"] for pair in record if pair["name"] == path.stem))
        overlap += ((predicted > 0) & (truth > 0)).sum()
        total += (predicted > 0).sum() + (truth > 0).sum()
        assert predicted.dtype == np.uint16
        assert np.array_equal(predicted, ndimage.label(predicted > 0)[0])
        assert open_volume(path).voxel_size == pytest.approx(VOXEL_SIZE, rel=1e-4)
    assert finished.best_dice == pytest.approx(2 * overlap / total, abs=1e-12)
    rows = list(csv.DictReader((folder.path / "metrics.csv").open()))
    assert float(rows[-1]["val_dice"]) == finished.best_dice
    assert float(rows[-1]["val_f1"]) == finished.best_f1
    summary = yaml.safe_load((folder.model / "model.yaml").read_text())["training"]
    assert (summary["validation_dice"], summary["validation_f1"]) == (finished.best_dice, finished.best_f1)
    assert summary["is_final"] is True


def test_the_best_validation_is_the_one_that_was_kept(learned):
    _, events, _folder = learned
    best = max(of(Validated, events), key=lambda event: event.dice)
    finished = of(Finished, events)[0]
    assert finished.best_epoch == best.epoch
    assert finished.best_dice == pytest.approx(best.dice, abs=1e-3)


def test_predicting_the_validation_images_gives_the_files_of_the_run(learned, tmp_path):
    _config, _, folder = learned
    record = json.loads(folder.data_file.read_text())["pairs"]
    held_out = [Path(pair["image"]) for pair in record if pair["side"] == "validation"]
    events = list(predict(folder.path, held_out, tmp_path / "out", probabilities=True))
    assert len(of(Saved, events)) == len(held_out)
    for image in held_out:
        ours = (tmp_path / "out" / image.name).read_bytes()
        assert ours == (folder.validation / image.name).read_bytes()
        probability = tifffile.imread(tmp_path / "out" / f"{image.stem}_probability.tif")
        assert probability.dtype == np.float32
        assert np.array_equal(probability >= 0.5, tifffile.imread(folder.validation / image.name) > 0)


def test_the_configuration_repeats_the_run_and_equal_seeds_give_equal_losses(make_config):
    events, folder = run(make_config(**AUTOMATIC))
    again, _ = run(folder.read_config())
    other, _ = run(make_config(**AUTOMATIC, seed=1))
    assert losses(again) == losses(events)
    assert losses(other) != losses(events)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_resumed_run_ends_as_if_it_had_never_stopped(make_config, schedule):
    settings = AUTOMATIC | {"epochs": 4, "schedule": schedule}
    _, whole = run(make_config(run_name="whole", **settings))
    events = session.run(make_config(run_name="broken", **settings))
    for event in events:
        if isinstance(event, StepDone) and (event.epoch, event.step_in_epoch) == (3, 2):
            break  # two steps after the last save: they are lost and must be repeated
    events.close()
    broken = RunFolder.open(make_config().data.results / "broken")
    rest = list(session.resume(broken.path))
    assert of(Started, rest)[0].first_epoch == 3
    assert_same_tensors(last_tensors(whole), last_tensors(broken))
    table = [(broken.path / "metrics.csv").read_text(), (whole.path / "metrics.csv").read_text()]
    columns = [[line.split(",")[:6] for line in text.splitlines()] for text in table]
    assert columns[0] == columns[1]


def test_stopping_at_once_in_the_middle_of_an_epoch_can_be_resumed_exactly(make_config):
    _, whole = run(make_config(epochs=2, run_name="whole", validation_interval=2))
    config = make_config(epochs=2, run_name="stopped", validation_interval=2)
    stopped = None
    events = []
    for event in session.run(config):
        events.append(event)
        if isinstance(event, Started):
            stopped = RunFolder.open(config.data.results / event.run)
            stopped.request_stop(now=True)
    finished = of(Finished, events)[0]
    assert finished.reason == "stopped-now"
    assert len(losses(events)) == 1
    assert (stopped.model / "model.yaml").exists()
    list(session.resume(stopped.path))
    assert_same_tensors(dict(last_tensors(whole).items()), dict(last_tensors(stopped).items()))


def test_an_epoch_begun_with_other_batches_is_begun_again(make_config):
    config = make_config(augmentation_samples_per_volume=8, validation_interval=3)
    events = []
    for event in session.run(config):
        events.append(event)
        if isinstance(event, Started):
            folder = RunFolder.open(config.data.results / event.run)
            folder.request_stop(now=True)
    folder.write_config(make_config(augmentation_samples_per_volume=2, validation_interval=3))
    events = list(session.resume(folder.path))
    assert [event.step_in_epoch for event in of(StepDone, events)] == [1, 2, 3] * 2
    assert all(event.loss > 0 for event in of(StepDone, events))
    assert [event.epoch for event in of(EpochDone, events)] == [1, 2]


def test_stop_lets_training_reach_its_next_validation(make_config):
    config = make_config(epochs=10, validation_interval=2)
    events = []
    for event in session.run(config):
        events.append(event)
        if isinstance(event, Started):
            RunFolder.open(config.data.results / event.run).request_stop(now=False)
    assert of(Finished, events)[0].reason == "stopped"
    assert [event.epoch for event in of(Validated, events)] == [2]


def test_a_time_limit_ends_with_a_validation(make_config):
    events, folder = run(make_config(epochs=100_000, max_minutes=0.05, deterministic=True))
    finished = of(Finished, events)[0]
    assert finished.reason == "max-minutes"
    assert of(Validated, events)
    assert finished.epoch < 1000
    assert (folder.model / "model.safetensors").exists()


def test_early_stopping_counts_validations_without_a_better_dice(make_config):
    events, _ = run(make_config(epochs=50, learning_rate=1e-12, weight_averaging=False, early_stopping=3))
    validations = of(Validated, events)
    assert of(Finished, events)[0].reason == "early-stopping"
    assert not any(event.is_best for event in validations[-3:])
    assert len(validations) < 50


def test_a_finished_run_is_not_resumed_but_can_be_extended(make_config):
    _, folder = run(make_config(epochs=1))
    with pytest.raises(RunFolderError, match=r"has done 1 epoch already.*--epochs 2"):
        list(session.resume(folder.path))
    events = list(session.resume(folder.path, epochs=2))
    assert [event.epoch for event in of(EpochDone, events)] == [2]
    assert folder.read_config().training.epochs == 2


def test_a_run_killed_before_its_first_validation_begins_again(make_config):
    config = make_config(run_name="young")
    events = session.run(config)
    next(event for event in events if isinstance(event, StepDone))
    events.close()
    folder = config.data.results / "young"
    assert not list((folder / "checkpoints").iterdir())
    assert of(Finished, list(session.resume(folder)))
    _, whole = run(make_config(run_name="whole"))
    assert_same_tensors(last_tensors(whole), last_tensors(RunFolder.open(folder)))
    for name in ("config.yaml", "data.json"):
        assert (folder / name).read_text().replace("young", "whole") == (whole.path / name).read_text()


def test_changed_data_are_told_on_resuming(make_config, tmp_path):
    images, labels = write_pairs(tmp_path / "own", ["a_1", "b_1", "c_1"])
    config = make_config(data_images=images, data_labels=labels, epochs=3)
    _, folder = run(config.model_copy(update={"training": config.training.model_copy(update={"epochs": 1})}))
    image, _ = make_pair(99)
    write_volume(images / "a_1.tif", image, VOXEL_SIZE)
    events = list(session.resume(folder.path, epochs=2))
    assert any("changed" in event.message for event in of(Warned, events))
    assert any("changed" in event.message for event in of(Warned, folder.read_events()))
    assert of(Finished, events)


# --- other kinds of data --------------------------------------------------------------------------------


def test_whole_images_of_different_sizes(make_config, tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for number, shape in enumerate([(16, 32, 32), (12, 40, 20), (20, 24, 28)]):
        image, label = make_pair(number, shape, 4)
        write_volume(images / f"v{number}.tif", image, VOXEL_SIZE)
        write_volume(labels / f"v{number}.tif", label, VOXEL_SIZE)
    config = make_config(
        data_images=images, data_labels=labels, augmentation_patches=False, augmentation_patch_size=None
    )
    events, folder = run(config)
    assert of(Started, events)[0].patch_size is None
    assert of(Started, events)[0].steps_per_epoch == 1
    assert any("reflection" in event.message for event in of(Logged, folder.read_events()))
    for path in folder.validation.iterdir():
        assert tifffile.imread(path).shape == tifffile.imread(images / path.name).shape


def test_classes_come_back_as_their_own_values(make_config, tmp_path):
    images, labels = write_pairs(tmp_path / "own", ["a", "b", "c"])
    for path in labels.iterdir():
        values = np.array([0, 3, 7], np.uint8)
        write_volume(path, values[np.minimum(tifffile.imread(path), 2)], VOXEL_SIZE)
    config = make_config(data_images=images, data_labels=labels, data_label_kind="classes", loss="dice")
    events, folder = run(config)
    finished = of(Finished, events)[0]
    assert finished.best_f1 is None
    counts = {3: [0, 0], 7: [0, 0]}
    for path in folder.validation.iterdir():
        predicted, truth = tifffile.imread(path), tifffile.imread(labels / path.name)
        assert set(np.unique(predicted)) <= {0, 3, 7}
        for value, count in counts.items():
            count[0] += 2 * ((predicted == value) & (truth == value)).sum()
            count[1] += (predicted == value).sum() + (truth == value).sum()
    expected = np.mean([a / b for a, b in counts.values()])
    assert finished.best_dice == pytest.approx(expected)


def test_ignored_voxels_change_nothing_whatever_the_image_shows_there(make_config, tmp_path):
    results = []
    for number, _noise in enumerate((0, 1)):
        images, labels = write_pairs(tmp_path / str(number), ["a", "b", "c"])
        for path in labels.iterdir():
            label = tifffile.imread(path).astype(np.int32)
            label[:, :, :6] = 99
            write_volume(path, label.astype(np.uint16), VOXEL_SIZE)
        config = make_config(
            data_images=images, data_labels=labels, data_ignore_value=99, epochs=1, data_label_kind="foreground"
        )
        events, folder = run(config)
        overlap = total = 0
        for path in folder.validation.iterdir():
            predicted, truth = tifffile.imread(path)[:, :, 6:] > 0, tifffile.imread(labels / path.name)[:, :, 6:] > 0
            overlap += 2 * (predicted & truth).sum()
            total += predicted.sum() + truth.sum()
        assert of(Finished, events)[0].best_dice == pytest.approx(overlap / total)
        results.append(losses(events))
    assert results[0] == results[1]


def test_a_single_volume_is_cut_into_blocks(make_config, tmp_path):
    images, labels = write_pairs(tmp_path / "own", ["only"], shape=(16, 32, 90), num_objects=20)
    config = make_config(data_images=images / "only.tif", data_labels=labels / "only.tif")
    _events, folder = run(config)
    record = json.loads(folder.data_file.read_text())["pairs"]
    spans = {pair["side"]: pair["region_zyx"][2] for pair in record}
    assert spans["train"][1] < spans["validation"][0] or spans["validation"][1] < spans["train"][0]
    assert any("single volume" in event.message for event in of(Logged, folder.read_events()))
    written = tifffile.imread(next(folder.validation.iterdir()))
    assert written.shape == (16, 32, spans["validation"][1] - spans["validation"][0])


def test_a_folder_of_ones_own_for_validation(make_config, balls, tmp_path):
    images, labels = write_pairs(tmp_path / "own", ["x", "y"], num_objects=4)
    events, folder = run(make_config(data_validation_images=images, data_validation_labels=labels, epochs=1))
    assert (of(Started, events)[0].num_training, of(Started, events)[0].num_validation) == (4, 2)
    assert {path.name for path in folder.validation.iterdir()} == {"x.tif", "y.tif"}


def test_volumes_beyond_the_memory_budget_are_read_from_their_files(make_config, tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for number in range(3):
        image, label = make_pair(number)
        tifffile.imwrite(images / f"v{number}.tif", image)
        tifffile.imwrite(labels / f"v{number}.tif", label)
    config = make_config(data_images=images, data_labels=labels, data_voxel_size=VOXEL_SIZE)
    events, _ = run(config)
    lazy, _ = run(config.model_copy(update={"data": config.data.model_copy(update={"memory_budget_gb": 1e-9})}))
    assert losses(lazy) == losses(events)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30, -5.0])
def test_values_that_a_file_did_not_hold_before_name_it(junk):
    array = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2)
    volume = Unchanged("cells.tif", array, 0.0, 1.0)
    assert volume[0:1, :, :].shape == (1, 2, 2)
    array[1, 0, 1] = junk
    assert volume[0:1, :, :].shape == (1, 2, 2)
    with pytest.raises(DataError, match=r"cells\.tif: This holds values .* that it did not hold .* resume the run"):
        volume[0:2, :, :]


@pytest.mark.parametrize(("side", "junk"), [("train", np.nan), ("validation", 1e30)])
def test_junk_in_a_file_that_is_read_while_training_names_the_file(make_config, tmp_path, side, junk):
    images, labels = write_pairs(tmp_path / "own", ["a_1", "b_1", "c_1"])
    for path in images.iterdir():
        tifffile.imwrite(path, tifffile.imread(path).astype(np.float32))
    for path in labels.iterdir():
        tifffile.imwrite(path, tifffile.imread(path))
    config = make_config(data_images=images, data_labels=labels, data_memory_budget_gb=1e-9, run_name="mine", epochs=50)
    folder = RunFolder(config.data.results / "mine")
    events = session.run(config)
    next(event for event in events if isinstance(event, Started))
    chosen = [pair["image"] for pair in json.loads(folder.data_file.read_text())["pairs"] if pair["side"] == side]
    for path in chosen:
        mapped = tifffile.memmap(path, mode="r+")
        mapped[:] = junk
        mapped.flush()
    with pytest.raises(DataError, match=r"_1\.tif: This holds values"):
        list(events)
    assert "_1.tif: This holds values" in list(folder.read_events())[-1].message


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_whole_numbers_stored_as_fractions_are_labels_all_the_same(make_config, balls, tmp_path, kind):
    labels = tmp_path / "labels"
    labels.mkdir()
    for path in balls[1].iterdir():
        write_volume(labels / path.name, tifffile.imread(path).astype(kind), VOXEL_SIZE)
    events, _ = run(make_config(data_labels=labels, epochs=1))
    expected, _ = run(make_config(epochs=1))
    assert of(Finished, events)[0].best_f1 == of(Finished, expected)[0].best_f1


# --- using the model --------------------------------------------------------------------------------------


def test_results_never_overwrite_images_nor_each_other(learned, tmp_path):
    _, _, folder = learned
    images = tmp_path / "in"
    images.mkdir()
    for name in ("a.tif", "a_probability.tif"):
        write_volume(images / name, make_pair(0)[0], VOXEL_SIZE)
    with pytest.raises(DataError, match="images themselves"):
        list(predict(folder.path, [images], images))
    with pytest.raises(DataError, match=r"a_probability\.tif"):
        list(predict(folder.path, [images], tmp_path / "out", probabilities=True))
    assert not (tmp_path / "out").exists()
    list(predict(folder.path, [images], tmp_path / "out"))
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_voxels_of_another_size_are_refused_unless_told_otherwise(learned, tmp_path):
    _, _, folder = learned
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "a.tif", make_pair(0)[0], (1.0, 2.0, 2.0))
    with pytest.raises(ModelFileError, match="voxel"):
        list(predict(folder.path, [tmp_path / "in"], tmp_path / "out"))
    list(predict(folder.path, [tmp_path / "in"], tmp_path / "out", voxel_size=VOXEL_SIZE))
    assert (tmp_path / "out" / "a.tif").exists()


# --- starting weights -----------------------------------------------------------------------------------


def test_starting_weights_are_taken_over(learned, make_config):
    _, _, folder = learned
    events, _ = run(make_config(starting_weights=folder.path, epochs=1, learning_rate=1e-9))
    assert of(Validated, events)[0].dice > 0.6


def test_starting_weights_of_another_network_are_refused_before_a_folder_is_made(learned, make_config):
    _, _, folder = learned
    config = make_config(starting_weights=folder.path, model="segresnet")
    with pytest.raises(ModelFileError, match="another network"):
        list(session.run(config))
    assert not config.data.results.exists()


# --- what is refused ------------------------------------------------------------------------------------


def test_missing_folders_and_unknown_choices_are_told_together(make_config):
    config = make_config(data_images=None, model="unett", loss="dise")
    with pytest.raises(ConfigError) as caught:
        list(session.run(config))
    for word in ("images", "unett", "'unet'", "dise", "'dice'"):
        assert word in str(caught.value)


def test_bad_data_is_refused_before_a_folder_is_made(make_config, tmp_path):
    images, labels = write_pairs(tmp_path / "own", ["a", "b", "c"])
    write_volume(labels / "b.tif", np.ones((16, 32, 31), np.uint16), VOXEL_SIZE)
    (images / "c.tif").write_bytes(b"this is no TIFF")
    config = make_config(data_images=images, data_labels=labels)
    with pytest.raises(DataError) as caught:
        list(session.run(config))
    assert "b.tif" in str(caught.value)
    assert "c.tif" in str(caught.value)
    assert not config.data.results.exists()


def test_an_existing_run_name_is_refused_and_nothing_is_overwritten(make_config):
    _, folder = run(make_config(run_name="mine", epochs=1))
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match="mine"):
        list(session.run(make_config(run_name="mine", epochs=1)))
    assert before == {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def test_a_folder_that_cannot_be_begun_is_taken_away(make_config, monkeypatch):
    def full(*_):
        raise RunFolderError("No space left.")

    monkeypatch.setattr(files, "write_text", full)
    config = make_config(run_name="full")
    with pytest.raises(RunFolderError, match="space"):
        list(session.run(config))
    assert list(config.data.results.iterdir()) == []


def test_half_precision_on_a_processor_is_refused(make_config):
    with pytest.raises(ConfigError, match="float16"):
        list(session.run(make_config(precision="float16", device="auto")))


def test_a_failure_on_the_way_is_recorded_and_told(make_config, monkeypatch):
    from napari_celltrain.engine.learner import Learner

    def out_of_memory(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Learner, "step", out_of_memory)
    config = make_config(run_name="short")
    with pytest.raises(CellTrainError, match="smaller"):
        list(session.run(config))
    last = list(RunFolder.open(config.data.results / "short").read_events())[-1]
    assert last.event == "failed"
    assert "smaller" in last.message


def test_a_loss_that_stays_not_finite_ends_the_run_with_advice(make_config, monkeypatch):
    from napari_celltrain.engine.learner import Learner

    monkeypatch.setattr(Learner, "step", lambda *_: float("nan"))
    with pytest.raises(CellTrainError, match="learning rate"):
        list(session.run(make_config(epochs=50)))


def test_two_processes_cannot_train_in_one_folder(make_config):
    config = make_config(run_name="busy", epochs=3)
    events = session.run(config)
    for event in events:
        if isinstance(event, Saved) and event.what == "last":
            break
    try:
        with pytest.raises(RunFolderError, match="still being trained"):
            list(session.resume(config.data.results / "busy"))
    finally:
        events.close()
