"""The training loop: its events in order, what is saved when, and how it ends; on scripted losses and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from napari_celltrain.data.labels import LabelScheme
from napari_celltrain.engine.device import Ranks
from napari_celltrain.engine.learner import PLATEAU_PATIENCE
from napari_celltrain.engine.patches import Batch
from napari_celltrain.engine.scores import Score, count_voxels
from napari_celltrain.engine.trainer import MAX_BROKEN_STEPS, REPLAN_STEPS, Progress, Trainer
from napari_celltrain.engine.validation import ValidationVolume, Validator
from napari_celltrain.nets.normalize import IntensityStatistics
from napari_celltrain.values.config import TrainingConfig
from napari_celltrain.values.errors import DeviceError
from napari_celltrain.values.events import EpochDone, Event, Logged, Saved, StepDone, StopRequested, Validated, Warned

PLAIN = IntensityStatistics(kind="zscore", offset=0.0, scale=1.0)


def score(tp: int, fp: int = 0) -> Score:
    """Of that many voxels found and false ones."""
    predicted = np.ones(tp + fp, np.uint8)
    return Score(count_voxels(np.repeat([1, 0], [tp, fp]).astype(np.uint8), predicted, 2))


def of_dice(percent: int) -> Score:
    """2 TP / (2 TP + FP) with 2 TP + FP = 100."""
    return score(percent // 2, 100 - percent)


class Clock:
    """Advances by itself at every look, and by what takes time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class ScriptedSource:
    """Two volumes; no batch holds anything."""

    volumes = ("a", "b")
    samples_per_volume = 2

    def batch(self, requests: Sequence[object]) -> Batch:
        size = (len(requests), 1, 1, 1, 1)
        return Batch(torch.zeros(size), torch.zeros(size[:1] + size[2:], dtype=torch.uint8))


class ScriptedLearner:
    device = torch.device("cpu")

    def __init__(self, losses: Iterator[float] | None = None) -> None:
        self._losses = losses
        self.rates: list[float] = []

    def step(self, batch: Batch, rate: float, num_items: int) -> float:
        self.rates.append(rate)
        assert num_items == len(batch.image)
        return next(self._losses) if self._losses else 1.0

    def weights(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {"steps": len(self.rates)}


class ScriptedValidator(Validator):
    def __init__(self, scores: Sequence[Sequence[Score]], clock: Clock, seconds: float = 0.0) -> None:
        """``scores``: for each validation, those of its volumes; the last is repeated."""
        array = np.zeros((1, 1, 1), np.uint8)
        volumes = [ValidationVolume(f"v{n}", array, array, PLAIN) for n in range(len(scores[0]))]
        super().__init__(volumes, LabelScheme("foreground"))
        self._scores = list(scores)
        self._clock = clock
        self._seconds = seconds

    def score(self, predictor: object, indices: Sequence[int]) -> Iterator[tuple[int, Score, np.ndarray]]:
        scores = self._scores.pop(0) if len(self._scores) > 1 else self._scores[0]
        self._clock.now += self._seconds
        for index in indices:
            yield index, scores[index], np.zeros((1, 1, 1), np.uint8)


class Recorded:
    """A checkpointer that remembers; requests to stop are made after a number of looks."""

    def __init__(self, requests: dict[int, str] | None = None) -> None:
        self.saved: list[tuple[str, int]] = []
        self.last: tuple[dict[str, Any], Progress] | None = None
        self._requests = requests or {}
        self._looks = 0
        self._request: str | None = None

    def save_last(self, state: dict[str, Any], progress: Progress) -> str:
        self.last = (state, progress)
        self.saved.append(("last", progress.epoch))
        return "last"

    def save_best(self, weights: dict[str, Any], epoch: int) -> str:
        self.saved.append(("best", epoch))
        return "best"

    def save_preview(self, epoch: int, prediction_ZYX: np.ndarray) -> str:
        self.saved.append(("preview", epoch))
        return f"preview {epoch}"

    def stop_request(self) -> str | None:
        self._looks += 1
        self._request = self._requests.get(self._looks, self._request)
        return self._request


class NoPredictor:
    target = "foreground"


def make(
    scores: Sequence[Sequence[Score]] = ((of_dice(50),),),
    losses: Iterator[float] | None = None,
    progress: Progress | None = None,
    validation_seconds: float = 0.0,
    **settings: Any,
) -> Trainer:
    """Epochs of two steps with two patches each."""
    settings = {"epochs": 2, "validation_interval": 1, "batch_size": 2, "warmup_steps": 0} | settings
    config = TrainingConfig(**settings)
    progress = progress or Progress()
    progress.set_epoch_size(4, config.batch_size)
    progress.planned_steps = config.epochs * progress.steps_per_epoch
    clock = Clock()
    return Trainer(
        config=config,
        source=ScriptedSource(),  # type: ignore[arg-type]
        validator=ScriptedValidator(scores, clock, validation_seconds),
        learner=ScriptedLearner(losses),  # type: ignore[arg-type]
        predictor=NoPredictor(),  # type: ignore[arg-type]
        ranks=Ranks(),
        progress=progress,
        clock=clock,
        started_at=100.0,
    )


def of(kind: type, events: Sequence[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_events_come_in_order_and_say_what_was_done() -> None:
    trainer = make([[of_dice(50)], [of_dice(60)]], losses=iter([4.0, 2.0, 1.0, 1.0]))
    events = list(trainer.run(Recorded()))
    epoch = ["step_done"] * 2 + ["epoch_done", "validation_progressed", "validated", "saved", "saved"]
    assert [event.event for event in events] == epoch * 2
    assert [(event.epoch, event.step, event.step_in_epoch) for event in of(StepDone, events)] == [
        (1, 1, 1),
        (1, 2, 2),
        (2, 3, 1),
        (2, 4, 2),
    ]
    assert [event.train_loss for event in of(EpochDone, events)] == [3.0, 1.0]
    assert [event.dice for event in of(Validated, events)] == [0.5, 0.6]
    assert [event.preview for event in of(Validated, events)] == ["preview 1", "preview 2"]
    assert [(event.what, event.epoch) for event in of(Saved, events)] == [
        ("best", 1),
        ("last", 1),
        ("best", 2),
        ("last", 2),
    ]
    assert trainer.reason == "epochs"
    assert trainer.progress.seconds == trainer.total_seconds - 1


def test_validations_come_at_their_interval_and_at_the_end() -> None:
    events = list(make(epochs=5, validation_interval=2).run(Recorded()))
    assert [event.epoch for event in of(Validated, events)] == [2, 4, 5]


def test_scores_of_volumes_are_pooled() -> None:
    """By counts, not by the mean of the volumes' Dice."""
    scores = [score(1), score(8, 16)]
    [validated] = of(Validated, list(make([scores], epochs=1).run(Recorded())))
    assert validated.dice == pytest.approx(2 * 9 / (2 * 9 + 16))
    assert [(volume.name, volume.dice) for volume in validated.volumes] == [("v0", 1.0), ("v1", 0.5)]


def test_the_best_is_saved_when_it_is_better_and_the_last_always() -> None:
    trainer = make([[of_dice(percent)] for percent in (50, 50, 60, 40)], epochs=4)
    recorded = Recorded()
    list(trainer.run(recorded))
    saved = recorded.saved
    assert [epoch for what, epoch in saved if what == "best"] == [1, 3]
    # what is saved is where training goes on: at the next epoch
    assert [epoch for what, epoch in saved if what == "last"] == [2, 3, 4, 5]
    assert saved.index(("best", 3)) < saved.index(("last", 4)), "killed in between, a run finds the same best again"
    assert (trainer.progress.best_epoch, trainer.progress.best_dice) == (3, 0.6)
    assert trainer.progress.validations_since_best == 1


def test_stop_reaches_the_next_validation() -> None:
    trainer = make(epochs=10, validation_interval=3)
    events = list(trainer.run(Recorded({1: "stop"})))
    assert trainer.reason == "stopped"
    assert [event.now for event in of(StopRequested, events)] == [False]
    assert [event.epoch for event in of(Validated, events)] == [3]
    assert len(of(StepDone, events)) == 6


def test_stop_now_validates_after_the_batch_in_progress() -> None:
    trainer = make(epochs=10, validation_interval=3)
    events = list(trainer.run(Recorded({3: "stop-now"})))
    assert trainer.reason == "stopped-now"
    assert len(of(StepDone, events)) == 3
    assert [event.epoch for event in of(Validated, events)] == [2]
    assert events[-1].event == "saved"
    # in the middle of an epoch, which goes on there
    assert (trainer.progress.epoch, trainer.progress.step_in_epoch) == (2, 1)


def test_a_second_more_urgent_request_counts() -> None:
    trainer = make(epochs=10, validation_interval=9)
    events = list(trainer.run(Recorded({1: "stop", 4: "stop-now"})))
    assert [event.now for event in of(StopRequested, events)] == [False, True]
    assert len(of(StepDone, events)) == 4


def test_early_stopping_counts_validations_without_a_better_score() -> None:
    trainer = make([[of_dice(percent)] for percent in (50, 60, 50, 50, 50)], epochs=50, early_stopping=2)
    events = list(trainer.run(Recorded()))
    assert trainer.reason == "early-stopping"
    assert [event.epoch for event in of(Validated, events)] == [1, 2, 3, 4]


def test_plateau_halves_the_rate_after_its_patience() -> None:
    trainer = make(epochs=2 + PLATEAU_PATIENCE, schedule="plateau", learning_rate=0.1)
    list(trainer.run(Recorded()))
    rates = trainer.learner.rates[::2]
    assert rates == pytest.approx([0.1] * (1 + PLATEAU_PATIENCE) + [0.05])


def test_broken_steps_are_left_out_of_the_loss() -> None:
    events = list(make(losses=iter([float("nan"), 2.0, float("inf"), float("nan")])).run(Recorded()))
    first, second = of(EpochDone, events)
    assert first.train_loss == 2.0
    assert np.isnan(second.train_loss)


def test_steps_that_stay_broken_end_the_run_with_advice() -> None:
    trainer = make(epochs=100, losses=iter([1.0] + [float("nan")] * 99))
    with pytest.raises(DeviceError, match="smaller learning rate"):
        list(trainer.run(Recorded()))
    assert trainer.progress.step == MAX_BROKEN_STEPS


def test_a_finite_loss_begins_the_count_of_broken_steps_again() -> None:
    broken = [float("nan")] * (MAX_BROKEN_STEPS - 1)
    assert len(of(StepDone, list(make(epochs=20, losses=iter([*broken, 1.0, *broken, 1.0])).run(Recorded())))) == 40


def test_a_time_limit_leaves_time_for_the_validation() -> None:
    trainer = make(epochs=1000, max_minutes=2, validation_interval=1000, validation_seconds=10.0)
    trainer.validation_estimate = 10.0
    events = list(trainer.run(Recorded()))
    assert trainer.reason == "max-minutes"
    assert events[-1].event == "saved"
    assert 90 < trainer.elapsed - 10.0 < 120


def test_a_plan_that_the_clock_contradicts_is_changed() -> None:
    trainer = make(epochs=1000, max_minutes=10, validation_interval=1000)
    trainer.progress.planned_steps = 2000
    events = []
    for event in trainer.run(Recorded()):
        events.append(event)
        if isinstance(event, Logged):
            break
    assert "learning rate is now planned for about" in events[-1].message
    assert len(of(StepDone, events)) == REPLAN_STEPS
    assert 40 < trainer.progress.planned_steps < 200


def test_a_validation_that_takes_longer_than_training_is_warned_of_once() -> None:
    events = list(make(epochs=3, validation_seconds=1000.0).run(Recorded()))
    [warned] = of(Warned, events)
    assert "validation interval of" in warned.message


def test_it_goes_on_where_a_checkpoint_was_made() -> None:
    trainer = make(epochs=4, validation_interval=9)
    recorded = Recorded({3: "stop-now"})
    list(trainer.run(recorded))
    _, progress = recorded.last
    rest = list(make(epochs=4, validation_interval=9, progress=progress).run(Recorded()))
    assert [(event.epoch, event.step_in_epoch) for event in of(StepDone, rest)] == [
        (2, 2),
        *((epoch, step) for epoch in (3, 4) for step in (1, 2)),
    ]


def test_nothing_happens_where_all_epochs_are_done() -> None:
    trainer = make(epochs=2, progress=Progress(epoch=3, num_patches=4, batch_size=2))
    assert list(trainer.run(Recorded())) == []


def test_an_epoch_of_another_size_begins_again() -> None:
    progress = Progress(epoch=2, step_in_epoch=3, loss_sum=5.0, loss_count=6, num_patches=8, batch_size=2)
    progress.set_epoch_size(8, 2)
    assert progress.step_in_epoch == 3
    progress.set_epoch_size(8, 4)
    assert (progress.step_in_epoch, progress.loss_count, progress.steps_per_epoch) == (0, 0, 2)
