"""What the form calls fields and choices, where the configuration's own names would not do."""

from __future__ import annotations

import re

from napari_celltrain.values.config import RunConfig

# By the path of the field, or by its name where it is called so everywhere.
_LABELS = {
    "data.memory_budget_gb": "Memory for volumes",
    "data.validation_fraction": "Share for validation",
    "augmentation.patch_size": "Patch size in voxels",
    "augmentation.foreground_fraction": "Share around labels",
    "training.target": "Learn",
    "training.max_minutes": "Time limit",
    "training.early_stopping": "Stop when not improving",
    "training.precision": "Number format",
    "training.threads": "Processor threads",
    "std": "Strength",
    "offset": "Largest shift",
    "factor": "Largest change",
    "rotation": "Rotation up to",
    "shear": "Shear up to",
    "spacing": "Spacing of points",
}
_UNITS = {
    "data.memory_budget_gb": "GB",
    "data.voxel_size": "µm",
    "training.max_minutes": "min",
    "training.warmup_steps": "steps",
    "training.validation_interval": "epochs",
    "training.early_stopping": "validations",
    "augmentation.augmentations.affine.rotation": "°",
    "augmentation.augmentations.elastic.spacing": "voxels",
    "augmentation.augmentations.elastic.magnitude": "voxels",
    "augmentation.augmentations.blur.sigma": "voxels",
}
_NONE_WORDS = {
    "data.ignore_value": "none",
    "data.channel": "the only one",
    "data.voxel_size": "as in the files",
    "data.axes": "as in the files",
    "augmentation.patch_size": "automatic",
    "training.gradient_clipping": "no limit",
    "training.early_stopping": "never",
    "training.max_minutes": "none",
    "training.starting_weights": "none: start from random weights",
}
_CHOICES = {
    "auto": "automatic",
    "zscore": "z-score",
    "channels_last": "channels last",
    "plateau": "halved on a plateau",
}


def label_of(path: str) -> str:
    """The label of a field, such as ``Batch size``."""
    name = path.rpartition(".")[2]
    return _LABELS.get(path) or _LABELS.get(name) or name.replace("_", " ").capitalize()


def unit_of(path: str) -> str:
    return _UNITS.get(path, "")


def none_text(path: str) -> str:
    """What an empty value means."""
    return _NONE_WORDS.get(path, "automatic")


def choice_label(key: str) -> str:
    return _CHOICES.get(key, key.replace("_", " "))


def in_the_window(message: str) -> str:
    """``message`` with the window's buttons and fields in the place of commands and their options."""
    message = re.sub(r"continue with `celltrain resume [^`]*`", "continue with Resume, below", message)
    message = re.sub(r"start it again with `celltrain train [^`]*`", "start it again with Start", message)
    return re.sub(r"`?--([a-z][a-z-]+)`?(?=[ ,.)])", _field_of, message)


def _field_of(option: re.Match[str]) -> str:
    """The label of the field that an option of the command line sets; other options stay as they are."""
    name = option[1].replace("-", "_")
    for section in RunConfig.model_fields.values():
        if isinstance(section.annotation, type) and name in getattr(section.annotation, "model_fields", {}):
            return label_of(name)
    return option[0]
