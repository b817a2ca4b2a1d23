import csv
import os
from pathlib import Path

import pytest

from napari_celltrain.runs import record as recorder_module
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.record import METRICS_HEADER, Recorder
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import (
    EpochDone,
    Event,
    Failed,
    Finished,
    Logged,
    Saved,
    Started,
    StepDone,
    Validated,
    Warned,
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run $x_1$", "unet")


def started(first_epoch: int = 1, name: str = "run $x_1$") -> Started:
    return Started(
        run=name,
        first_epoch=first_epoch,
        epochs=4,
        steps_per_epoch=5,
        num_training=4,
        num_validation=1,
        num_parameters=1000,
        model="unet",
        loss="dice_ce",
        patch_size=None,
        batch_size=2,
        device="CPU",
        numeric_format="float32",
    )


def epoch(number: int, loss: float = 0.5) -> EpochDone:
    return EpochDone(
        epoch=number, step=number * 5, train_loss=loss, learning_rate=1e-3, seconds=2.5, remaining_seconds=10.0
    )


def validated(number: int, dice: float) -> Validated:
    return Validated(epoch=number, step=number * 5, dice=dice, f1=dice / 3, volumes=(), seconds=1.0, is_best=True)


FINISHED = Finished(
    reason="epochs",
    epoch=4,
    best_epoch=4,
    best_dice=0.1 + 0.2,
    best_f1=None,
    seconds=19.0,
    compute_share=0.93,
    validation_share=0.1,
    peak_memory_gb=1.5,
)


def record(folder: RunFolder, *events: Event) -> Recorder:
    recorder = Recorder(folder)
    for event in events:
        recorder.record(event)
    return recorder


def rows(folder: RunFolder) -> list[dict[str, str]]:
    with (folder.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_whole_run(folder):
    record(folder, started(), epoch(1), epoch(2), validated(2, 0.7), epoch(3), epoch(4), validated(4, 0.3), FINISHED)
    assert (folder.path / "metrics.csv").read_text().splitlines()[0] == METRICS_HEADER
    table = rows(folder)
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4", "4"]
    assert [row["val_dice"] for row in table] == ["", "0.7", "", "0.3", repr(0.1 + 0.2)]
    assert table[1]["val_f1"] == repr(0.7 / 3)
    assert table[0] | {"seconds": "2.5", "learning_rate": "0.001", "train_loss": "0.5", "step": "5"} == table[0]
    assert table[-1]["train_loss"] == ""
    assert table[-1]["step"] == "20"
    for name in ("training.png", "training_final.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder.path / "training_final.svg").read_text()
    assert not list(folder.path.glob(".tmp-*"))


def test_the_table_is_complete_after_every_event(folder):
    recorder = Recorder(folder)
    for event, expected in (
        (started(), []),
        (epoch(1), [("1", "0.5", "")]),
        (epoch(2, 0.4), [("1", "0.5", ""), ("2", "0.4", "")]),
        (validated(2, 0.7), [("1", "0.5", ""), ("2", "0.4", "0.7")]),
        (epoch(3, 0.3), [("1", "0.5", ""), ("2", "0.4", "0.7"), ("3", "0.3", "")]),
    ):
        recorder.record(event)
        assert [(row["epoch"], row["train_loss"], row["val_dice"]) for row in rows(folder)] == expected


def test_a_resumed_run_supersedes_what_the_kill_left(folder):
    record(folder, started(), epoch(1), epoch(2), validated(2, 0.7), epoch(3, 9.0))
    with (folder.path / "metrics.csv").open("a") as file:
        file.write("4,2")  # torn
    record(folder, started(3), epoch(3, 0.3))
    assert [(row["epoch"], row["train_loss"]) for row in rows(folder)] == [("1", "0.5"), ("2", "0.5"), ("3", "0.3")]


def test_more_epochs_replace_the_final_line(folder):
    record(folder, started(), epoch(1), validated(1, 0.5), FINISHED, started(2), epoch(2))
    assert [row["epoch"] for row in rows(folder)] == ["1", "2"]


def test_events_get_their_time_and_are_kept(folder):
    recorder = Recorder(folder)
    [event] = recorder.record(Logged(message="hello"))
    assert event.time > 1e9
    assert list(folder.read_events()) == [event]


def test_plots_are_told_as_events_of_the_recorder(folder):
    recorder = record(folder, started(), epoch(1))
    _, own = recorder.record(validated(1, 0.5))
    assert isinstance(own, Saved)
    assert own.path == "training.png"
    assert own in folder.read_events()
    assert len(recorder.record(FINISHED)) == 1
    assert isinstance(list(folder.read_events())[-1], Finished)


def test_a_plot_that_fails_is_one_warning(folder, monkeypatch):
    def fail(*args: object) -> None:
        raise ValueError("no fonts")

    monkeypatch.setattr(recorder_module, "save_plot", fail)
    recorder = Recorder(folder)
    events = (started(), epoch(1), validated(1, 0.5), epoch(2), validated(2, 0.6), FINISHED)
    told = [event for each in events for event in recorder.record(each)]
    warnings = [event for event in told if isinstance(event, Warned)]
    assert [event.message for event in warnings] == ["The plot training.png could not be drawn: no fonts"]
    assert rows(folder)[-1]["val_dice"] == repr(0.1 + 0.2)


def test_the_log_reads_as_text(folder):
    step = StepDone(epoch=1, step=1, step_in_epoch=1, loss=0.25, learning_rate=1e-3, seconds=0.1)
    record(folder, started(), step, epoch(1), validated(1, 0.5), Failed(message="one\ntwo \x1b[31m"))
    log = folder.log_file.read_text()
    assert "whole images" in log
    assert "step 1 (epoch 1): loss 0.2500" in log
    assert "Validation after epoch 1: Dice 0.5000, F1 0.1667, the best so far" in log
    assert "Failed: one\n" + " " * 21 + "two" in log
    assert "\x1b" not in log


def test_pyplot_and_its_settings_are_left_alone(folder):
    import matplotlib as mpl

    def settings() -> dict[str, object]:  # merely reading `backend` chooses one
        return {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}

    before = settings()
    record(folder, started(), epoch(1), validated(1, 0.5))
    assert settings() == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_error(folder):
    folder.path.chmod(0o500)
    with pytest.raises(RunFolderError, match="permission denied"):
        record(folder, started())


def test_a_full_disk_is_an_error(folder, monkeypatch):
    recorder = Recorder(folder)
    real = Path.open

    def full(self, *args, **kwargs):
        if self.suffix == ".jsonl":
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunFolderError, match="no space left"):
        recorder.record(started())
