"""The training loop: a generator of events. It writes nothing itself; results go to a checkpointer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor

from napari_celltrain.engine.device import Ranks, memory_errors_explained
from napari_celltrain.engine.learner import PLATEAU_PATIENCE, Learner, learning_rate_at
from napari_celltrain.engine.patches import Batch, PatchSource, plan_batches, prefetched
from napari_celltrain.engine.predictor import Predictor
from napari_celltrain.engine.scores import Score
from napari_celltrain.engine.validation import Validator
from napari_celltrain.values import events
from napari_celltrain.values.config import TrainingConfig
from napari_celltrain.values.errors import DeviceError

MAX_BROKEN_STEPS = 20  # steps in a row whose loss or gradient is not finite, after which training gives up
REPLAN_STEPS = 25  # how often, in steps, the plan of the learning rate is compared with the clock under a time limit
REPLAN_RATIO = 1.4  # how far off the plan may be before it is changed
POLL_SECONDS = 0.3  # how often requests to stop are looked for


@dataclass(slots=True)
class Progress:
    """Where training stands; numbers only, saved with every checkpoint."""

    epoch: int = 1
    """The epoch in progress, counted from 1."""
    step: int = 0
    """Optimizer steps done."""
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    """Over the patches of the epoch in progress, with their number in ``loss_count``."""
    loss_count: int = 0
    epoch_seconds: float = 0.0
    best_dice: float = -1.0
    best_epoch: int = 0
    validations_since_best: int = 0
    halvings: int = 0
    """Of the learning rate, under the plateau schedule."""
    num_patches: int = 0
    batch_size: int = 0
    """Of the epoch in progress, together with ``num_patches``: what its steps mean."""
    planned_steps: int = 0
    """Steps over which the learning rate falls."""
    seconds: float = 0.0
    """Of all sittings together."""
    validation_seconds: float = 0.0
    compute_seconds: float = 0.0
    """Spent in forward, backward and optimizer step."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_patches // self.batch_size)

    def set_epoch_size(self, num_patches: int, batch_size: int) -> None:
        """With other data or batches than when it was saved, an epoch that was begun has to begin again."""
        if (self.num_patches, self.batch_size) != (num_patches, batch_size):
            self.begin_epoch(self.epoch)
        self.num_patches, self.batch_size = num_patches, batch_size

    def begin_epoch(self, epoch: int) -> None:
        self.epoch, self.step_in_epoch = epoch, 0
        self.loss_sum, self.loss_count, self.epoch_seconds = 0.0, 0, 0.0


class Checkpointer(Protocol):
    """Where training saves its results. The paths returned are relative to the run folder."""

    def save_last(self, state: dict[str, Any], progress: Progress) -> str: ...

    def save_best(self, weights: dict[str, Tensor], epoch: int) -> str: ...

    def save_preview(self, epoch: int, prediction_ZYX: NDArray[Any]) -> str: ...

    def stop_request(self) -> events.StopRequest | None: ...


@dataclass(slots=True)
class Trainer:
    """Everything one run of training needs but a place for its results. :meth:`run` may be called once."""

    config: TrainingConfig
    source: PatchSource
    validator: Validator
    learner: Learner
    predictor: Predictor
    """Of the weights that are validated."""
    ranks: Ranks
    progress: Progress
    """With its epoch's size and its planned steps set."""
    validation_estimate: float = 0.0
    """Seconds that the next validation will probably take."""
    clock: Callable[[], float] = time.perf_counter
    started_at: float = field(default_factory=time.perf_counter)
    """When this sitting began, by ``clock``; the time limit counts from here."""
    reason: events.StopReason | None = None
    """Why training ended, once it has."""
    _request: events.StopRequest | None = None
    _polled_at: float = 0.0
    _broken_steps: int = 0
    _warned_of_cost: bool = False
    _earlier_seconds: float = field(init=False)
    _steps_timed: int = 0
    _seconds_timed: float = 0.0

    def __post_init__(self) -> None:
        self._earlier_seconds = self.progress.seconds

    @property
    def elapsed(self) -> float:
        """Seconds of this sitting."""
        return self.clock() - self.started_at

    @property
    def total_seconds(self) -> float:
        """Seconds of all sittings together."""
        return self._earlier_seconds + self.elapsed

    def run(self, checkpointer: Checkpointer) -> Iterator[events.Event]:
        """Train until the epochs are done or something ends it earlier; the last thing is always a validation.

        Nothing happens where all epochs have been done already.
        """
        with self._batches() as batches:
            step_began = self.clock()
            for batch in batches:
                yield self._train_step(batch)
                seconds = self.clock() - step_began
                step_began = self.clock()
                self.progress.epoch_seconds += seconds
                yield from self._replan(seconds)
                yield from self._poll(checkpointer)
                epoch_complete = self.progress.step_in_epoch == self.progress.steps_per_epoch
                ending = self._ending(epoch_complete)
                if epoch_complete or ending is not None:
                    yield self._epoch_done()
                due = epoch_complete and self.progress.epoch % self.config.validation_interval == 0
                if ending is not None or due:
                    yield from self._validate(checkpointer, epoch_complete)
                    patience = self.config.early_stopping
                    if ending is None and self._request is not None:
                        ending = "stopped"
                    elif ending is None and patience is not None and self.progress.validations_since_best >= patience:
                        ending = "early-stopping"
                elif epoch_complete:
                    self.progress.begin_epoch(self.progress.epoch + 1)
                if ending is not None:
                    self.reason = ending
                    return
                if due:
                    step_began = self.clock()  # validation does not count as the epoch's time

    def _batches(self) -> AbstractContextManager[Iterator[Batch]]:
        config, source, progress = self.config, self.source, self.progress
        size = (len(source.volumes), source.samples_per_volume, config.batch_size)
        epochs = range(progress.epoch, config.epochs + 1)
        requests = plan_batches(*size, config.seed, epochs, first_step=progress.step_in_epoch)
        # a process without a share of the last, small batch computes its first patch with weight 0
        shares = (self.ranks.share(batch) or batch[:1] for batch in requests)
        return prefetched(source.batch, shares, num_threads=1 if self.learner.device.type == "cpu" else 4)

    def _train_step(self, batch: Batch) -> events.StepDone:
        progress = self.progress
        num_items = min(progress.batch_size, progress.num_patches - progress.step_in_epoch * progress.batch_size)
        assert num_items > 0, "a step beyond the end of its epoch"
        rate = self._learning_rate(progress.step)
        start = self.clock()
        with memory_errors_explained():
            loss = self.learner.step(batch, rate, num_items)
        seconds = self.clock() - start
        self._broken_steps = 0 if math.isfinite(loss) else self._broken_steps + 1
        if self._broken_steps >= MAX_BROKEN_STEPS:
            raise DeviceError(
                f"The loss has not been a finite number for {MAX_BROKEN_STEPS} steps. Take a smaller learning rate, "
                "or set the precision to float32; the best model so far is saved."
            )
        progress.step += 1
        progress.step_in_epoch += 1
        if math.isfinite(loss):
            progress.loss_sum += loss * num_items
            progress.loss_count += num_items
        progress.compute_seconds += seconds
        return events.StepDone(
            epoch=progress.epoch,
            step=progress.step,
            step_in_epoch=progress.step_in_epoch,
            loss=loss,
            learning_rate=rate,
            seconds=seconds,
        )

    def _learning_rate(self, step: int) -> float:
        return learning_rate_at(self.config, step, self.progress.planned_steps, self.progress.halvings)

    def _replan(self, seconds: float) -> Iterator[events.Logged]:
        """Under a time limit, look now and then whether the steps that were planned still fit what the clock says.

        Only a plan that is far off is changed, so that equal runs on a steady machine stay equal.
        """
        self._steps_timed += 1
        self._seconds_timed += seconds
        limit, progress = self.config.max_minutes, self.progress
        if limit is None or self._steps_timed % REPLAN_STEPS:
            return
        between = self.config.validation_interval * progress.steps_per_epoch
        per_step = self._seconds_timed / self._steps_timed + self.validation_estimate / between
        left = max(0.0, limit * 60 - self.elapsed - self._closing_seconds())
        everything = self.config.epochs * progress.steps_per_epoch
        likely = self.ranks.broadcast(min(everything, progress.step + int(left / per_step)))
        if max(likely, progress.planned_steps) <= REPLAN_RATIO * min(likely, progress.planned_steps):
            return
        progress.planned_steps = max(1, likely)
        epochs = likely / progress.steps_per_epoch
        message = f"The speed has changed; the learning rate is now planned for about {epochs:.1f} epochs."
        yield events.Logged(message=message)

    def _epoch_done(self) -> events.EpochDone:
        config, progress = self.config, self.progress
        steps = config.epochs * progress.steps_per_epoch - progress.step
        validations = -(-(config.epochs - progress.epoch) // config.validation_interval) + 1
        remaining = steps * progress.compute_seconds / max(1, progress.step) + validations * self.validation_estimate
        if config.max_minutes is not None:
            remaining = min(remaining, config.max_minutes * 60 - self.elapsed)
        return events.EpochDone(
            epoch=progress.epoch,
            step=progress.step,
            train_loss=progress.loss_sum / progress.loss_count if progress.loss_count else math.nan,
            learning_rate=self._learning_rate(max(0, progress.step - 1)),
            seconds=progress.epoch_seconds,
            remaining_seconds=max(0.0, remaining),
        )

    def _poll(self, checkpointer: Checkpointer) -> Iterator[events.StopRequested]:
        """Look for requests to stop; each new one becomes one event. The first process decides for all."""
        if self.ranks.world == 1 and self.clock() - self._polled_at < POLL_SECONDS:
            return
        self._polled_at = self.clock()
        request = self.ranks.broadcast(checkpointer.stop_request())
        if request is not None and request != self._request:
            self._request = request
            yield events.StopRequested(now=request == "stop-now")

    def _ending(self, epoch_complete: bool) -> events.StopReason | None:
        """Why training has to end with a validation right now, if it has to."""
        if epoch_complete and self.progress.epoch >= self.config.epochs:
            return "epochs"
        if self._request == "stop-now":
            return "stopped-now"
        limit = self.config.max_minutes
        if limit is not None and self.ranks.broadcast(self.elapsed + self._closing_seconds() > limit * 60):
            return "max-minutes"
        return None

    def _closing_seconds(self) -> float:
        """What comes after the last step: a validation, the final predictions, and the choice of their decoding."""
        return 2.1 * self.validation_estimate + self.validator.tuning_seconds(self.predictor.target)

    def _validate(self, checkpointer: Checkpointer, epoch_complete: bool) -> Iterator[events.Event]:
        """Score the evaluated weights, save them if they are the best so far, and save what resuming needs."""
        progress, epoch = self.progress, self.progress.epoch
        start = self.clock()
        scores: dict[int, Score] = {}
        preview: str | None = None
        indices = range(len(self.validator.volumes))
        own_share = self.ranks.share(indices)
        for index, score, prediction in self.validator.score(self.predictor, own_share):
            scores[index] = score
            if index == 0:
                preview = checkpointer.save_preview(epoch, prediction)
            yield events.ValidationProgressed(done=len(scores), total=len(own_share))
        for part in self.ranks.gather(scores):
            scores |= part
        validated = self._judge([scores[index] for index in indices], preview, self.clock() - start)
        self.validation_estimate = self.ranks.broadcast(validated.seconds)
        yield validated
        per_epoch = progress.steps_per_epoch * progress.compute_seconds / max(1, progress.step)
        between = per_epoch * self.config.validation_interval
        if validated.seconds > between and not self._warned_of_cost:
            self._warned_of_cost = True
            interval = math.ceil(4 * validated.seconds / max(per_epoch, 1e-9))
            yield events.Warned(
                message=f"A validation takes {validated.seconds:.0f} s, longer than the {between:.0f} s of training "
                f"between two of them. A validation interval of {interval} epochs would leave most of the time to "
                "training."
            )
        if validated.is_best:
            yield events.Saved(what="best", path=checkpointer.save_best(self.learner.weights(), epoch), epoch=epoch)
        if epoch_complete:
            progress.begin_epoch(epoch + 1)
        progress.validation_seconds += self.clock() - start
        progress.seconds = self.total_seconds
        yield events.Saved(what="last", path=checkpointer.save_last(self.learner.state(), progress), epoch=epoch)

    def _judge(self, scores: list[Score], preview: str | None, seconds: float) -> events.Validated:
        progress = self.progress
        pooled = sum(scores[1:], start=scores[0])
        is_best = pooled.dice > progress.best_dice
        if is_best:
            progress.best_dice, progress.best_epoch, progress.validations_since_best = pooled.dice, progress.epoch, 0
        else:
            progress.validations_since_best += 1
            if progress.validations_since_best % PLATEAU_PATIENCE == 0:
                progress.halvings += 1
        return events.Validated(
            epoch=progress.epoch,
            step=progress.step,
            dice=pooled.dice,
            f1=pooled.f1,
            volumes=self.validator.by_volume(scores),
            seconds=seconds,
            is_best=is_best,
            preview=preview,
        )
