"""What can be said of a configuration before any data is read."""

from __future__ import annotations

from pathlib import Path

from napari_celltrain.config import RunConfig
from napari_celltrain.errors import ConfigError, Problem, raise_problems
from napari_celltrain.parts.augmentations import AUGMENTATIONS
from napari_celltrain.parts.losses import LOSSES
from napari_celltrain.parts.models import MODELS


def setting_problems(config: RunConfig) -> list[Problem]:
    """Everything that is wrong with the configuration by itself; ``where`` of each is its field's path."""
    data, training = config.data, config.training
    problems = []
    for name, path in (("images", data.images), ("labels", data.labels)):
        if path is None:
            problems.append(
                Problem(
                    "missing-folder", f"data.{name}", f"No folder of {name} is given.", f"Give one: --{name} FOLDER."
                )
            )
    for where, registry, key in (("model", MODELS, training.model), ("loss", LOSSES, training.loss)):
        try:
            registry[key]
        except ConfigError as error:
            problems.append(Problem(f"unknown-{where}", f"training.{where}", str(error), ""))
    for augmentation in config.augmentation.augmentations:
        assert augmentation.name in AUGMENTATIONS  # every class of the configuration has its builder
    if training.precision == "float16" and training.device == "cpu":
        problems.append(
            Problem("float16-on-cpu", "training.precision", "float16 is slow and unsafe on a processor.", "Take auto.")
        )
    if training.target == "objects" and data.label_kind != "objects":
        problems.append(
            Problem(
                "objects-without-objects",
                "training.target",
                f"Objects can only be learned from labels that number them, and label_kind is {data.label_kind}.",
                "Take the target auto, or label_kind objects.",
            )
        )
    if data.results.is_file():
        problems.append(
            Problem("results-is-file", "data.results", f"{data.results} is a file.", "Choose a folder for the results.")
        )
    return problems


def check_settings(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths. Raises :class:`ConfigError` with all :func:`setting_problems`."""
    raise_problems(setting_problems(config), ConfigError, "Some settings have to be changed first:")
    data, training = config.data, config.training
    return config.model_copy(
        update={
            "data": data.model_copy(
                update={name: _absolute(getattr(data, name)) for name in _PATHS},
            ),
            "training": training.model_copy(update={"starting_weights": _absolute(training.starting_weights)}),
        }
    )


_PATHS = ("images", "labels", "results", "validation_images", "validation_labels")


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()
