"""What a run reports while it goes on: small frozen values, one JSON line each in ``events.jsonl``.

They hold numbers, strings and paths, never tensors, so they cross threads and processes and outlive the run.
Past tense: each says what has happened. Paths are relative to the run folder, with forward slashes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

T = TypeVar("T")

StopReason = Literal["epochs", "stopped", "stopped-now", "max-minutes", "early-stopping"]
StopRequest = Literal["stop", "stop-now"]
"""To end after the next validation, or after the current batch."""
Whole = Annotated[int, Field(ge=0, lt=2**53)]
"""Of what is counted: no line of a file makes it a number that cannot be computed with."""


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings", protected_namespaces=())

    time: float = 0.0  # seconds since 1970 (UTC) at which the folder's writer recorded the event; 0 before


class Prepared(_Event):
    """A stage before training has begun, for example ``"reading volumes"`` (``done`` of ``total``)."""

    event: Literal["prepared"] = "prepared"
    stage: str
    done: Whole = 0
    total: Whole = 0


class Started(_Event):
    """Training has begun, or is resumed."""

    event: Literal["started"] = "started"
    run: str  # name of the run folder
    first_epoch: Whole  # 1, or the epoch after the last one done, where a run is resumed
    epochs: Whole
    steps_per_epoch: Whole
    num_training: Whole
    num_validation: Whole
    num_parameters: Whole
    model: str
    loss: str
    patch_size: tuple[Whole, Whole, Whole] | None
    batch_size: Whole
    device: str  # the device's name for people, such as ``NVIDIA H100`` or ``CPU (2 threads)``
    numeric_format: str  # precision and layout in use, such as ``float32, channels-last``


class StepDone(_Event):
    """One optimizer step."""

    event: Literal["step_done"] = "step_done"
    epoch: Whole
    step: Whole  # optimizer steps done since the run began, this one included
    step_in_epoch: Whole
    loss: float
    learning_rate: float
    seconds: float


class EpochDone(_Event):
    """One epoch, before its validation."""

    event: Literal["epoch_done"] = "epoch_done"
    epoch: Whole
    step: Whole
    train_loss: float  # mean loss over the epoch's patches
    learning_rate: float
    seconds: float
    remaining_seconds: float  # estimated time to the end of the run


class VolumeScore(BaseModel):
    """Scores of one validation volume; ``f1`` is None where labels are not objects."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    name: str
    dice: float
    f1: float | None = None


class ValidationProgressed(_Event):
    """Parts of a validation, ``done`` of ``total``."""

    event: Literal["validation_progressed"] = "validation_progressed"
    done: Whole
    total: Whole


class Validated(_Event):
    """The scores of a validation; those of each volume are in ``volumes``."""

    event: Literal["validated"] = "validated"
    epoch: Whole
    step: Whole
    dice: float  # pooled over all validation voxels
    f1: float | None  # Object F1 at IoU 0.5 pooled over all validation volumes; None where labels are not objects
    volumes: tuple[VolumeScore, ...]
    seconds: float
    is_best: bool
    preview: str | None = None  # the prediction on the fixed preview volume, such as ``previews/epoch_0010.tif``


class Saved(_Event):
    """A file or folder is on the disk, whole."""

    event: Literal["saved"] = "saved"
    what: Literal["last", "best", "plot", "model", "validation", "prediction"]
    path: str
    epoch: Whole


class Logged(_Event):
    """A line for people."""

    event: Literal["logged"] = "logged"
    message: str


class Warned(_Event):
    """Something a person should know; the run goes on."""

    event: Literal["warned"] = "warned"
    message: str


class StopRequested(_Event):
    """The run was asked to end: after the next validation, or (``now``) after the current batch."""

    event: Literal["stop_requested"] = "stop_requested"
    now: bool


class Finished(_Event):
    """Training ended as it should; the run folder is complete and the model is usable."""

    event: Literal["finished"] = "finished"
    reason: StopReason
    epoch: Whole
    best_epoch: Whole
    best_dice: float  # Dice of the best model on the saved files of ``validation/``
    best_f1: float | None
    volumes: tuple[VolumeScore, ...] = ()  # scores of each of these files
    seconds: float
    compute_share: float  # share of the time outside validation that forward, backward and optimizer step took
    validation_share: float  # share of the whole time that validation took
    peak_memory_gb: float


class Failed(_Event):
    """Training ended by an error; ``message`` is for the user. What was saved before is intact."""

    event: Literal["failed"] = "failed"
    message: str


Event = Annotated[
    Prepared
    | Started
    | StepDone
    | EpochDone
    | ValidationProgressed
    | Validated
    | Saved
    | Logged
    | Warned
    | StopRequested
    | Finished
    | Failed,
    Field(discriminator="event"),
]

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def to_json(event: Event) -> str:
    """One line of JSON, without the line break."""
    try:
        return event.model_dump_json()
    except ValueError:  # a path with bytes that are no text
        texts = {key: value for key, value in event if isinstance(value, str)}
        printable = {key: text.encode("utf-8", "backslashreplace").decode() for key, text in texts.items()}
        return event.model_copy(update=printable).model_dump_json()


def from_json(line: str | bytes) -> Event:
    """The event of one line. Raises ``pydantic.ValidationError`` (a ``ValueError``) on anything else."""
    return _ADAPTER.validate_json(line)


def finish(steps: Generator[Any, None, T], each: Callable[[Any], object] = lambda step: None) -> T:
    """The result of a generator, run to its end; ``each`` is called with what it yields."""
    while True:
        try:
            each(next(steps))
        except StopIteration as end:
            result: T = end.value
            return result
