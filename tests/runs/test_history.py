from functools import reduce

from napari_celltrain.runs.history import History
from napari_celltrain.values.events import EpochDone, Event, Failed, Finished, Saved, Started, StepDone, Validated


def started(first_epoch: int = 1) -> Started:
    return Started(
        run="run",
        first_epoch=first_epoch,
        epochs=10,
        steps_per_epoch=5,
        num_training=4,
        num_validation=1,
        num_parameters=1000,
        model="unet",
        loss="dice_ce",
        patch_size=(64, 64, 64),
        batch_size=2,
        device="CPU",
        numeric_format="float32",
    )


def epoch(number: int, loss: float | None = None) -> EpochDone:
    return EpochDone(
        epoch=number,
        step=number * 5,
        train_loss=1 / number if loss is None else loss,
        learning_rate=1e-3,
        seconds=2.0,
        remaining_seconds=10.0,
    )


def validated(number: int, dice: float, is_best: bool = True, f1: float | None = None) -> Validated:
    return Validated(epoch=number, step=number * 5, dice=dice, f1=f1, volumes=(), seconds=1.0, is_best=is_best)


def saved(number: int) -> Saved:
    return Saved(what="last", path="checkpoints/last.safetensors", epoch=number)


def finished(best_epoch: int, best_dice: float) -> Finished:
    return Finished(
        reason="epochs",
        epoch=4,
        best_epoch=best_epoch,
        best_dice=best_dice,
        best_f1=None,
        seconds=9.0,
        compute_share=0.9,
        validation_share=0.1,
        peak_memory_gb=1.0,
    )


def history(events: list[Event]) -> History:
    return reduce(History.after, events, History())


def test_nothing_yet():
    assert history([]).rows == ()
    assert history([]).best is None


def test_losses_scores_and_best():
    events: list[Event] = [started(), epoch(1), epoch(2), validated(2, 0.7, f1=0.5), saved(2), epoch(3), epoch(4)]
    events += [validated(4, 0.6, is_best=False, f1=0.4), saved(4), finished(2, 0.71)]
    result = history(events)
    assert result.points("train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert result.points("dice") == [(2, 0.7), (4, 0.6)]
    assert result.points("f1") == [(2, 0.5), (4, 0.4)]
    assert result.best is not None
    assert result.best.epoch == 2
    assert result.finished == events[-1]


def test_epochs_done_again_after_a_kill_count_once():
    """The last saved state is of epoch 2; the kill came after epoch 4 and a better validation."""
    before: list[Event] = [started(), epoch(1), epoch(2), validated(2, 0.7), saved(2), epoch(3, 9.0), epoch(4, 9.0)]
    before += [validated(4, 0.9)]
    after: list[Event] = [started(3), epoch(3), epoch(4), validated(4, 0.8), saved(4)]
    resumed = history([*before, started(3)])
    assert resumed.points("train_loss") == [(1, 1.0), (2, 0.5)]
    assert resumed.best is not None
    assert resumed.best.dice == 0.7
    done = history([*before, *after])
    assert done.points("train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert done.points("dice") == [(2, 0.7), (4, 0.8)]
    assert done.best is not None
    assert done.best.dice == 0.8


def test_a_best_model_from_the_middle_of_an_epoch_outlives_a_resume():
    """Stopped at once in epoch 3: validated and saved there, and epoch 3 is gone on with."""
    events: list[Event] = [started(), epoch(1), epoch(2), validated(3, 0.8), saved(3), finished(3, 0.8), started(3)]
    result = history(events)
    assert [row.epoch for row in result.rows] == [1, 2]
    assert result.best is not None
    assert result.best.epoch == 3
    assert result.finished is None


def test_an_epoch_cut_short_has_scores_and_no_loss():
    result = history([started(), epoch(1), validated(2, 0.5)])
    assert result.rows[1].train_loss is None
    assert result.rows[1].dice == 0.5
    assert result.points("train_loss") == [(1, 1.0)]


def test_a_failure_is_over_when_the_run_is_resumed():
    failed = Failed(message="out of memory")
    assert history([started(), failed]).failed == failed
    assert history([started(), failed, started(1)]).failed is None


def test_steps_do_not_matter():
    step = StepDone(epoch=1, step=1, step_in_epoch=1, loss=0.5, learning_rate=1e-3, seconds=0.1)
    assert history([started(), step, epoch(1)]).rows == history([started(), epoch(1)]).rows
