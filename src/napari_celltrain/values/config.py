"""Everything that a run is told, as frozen values: one class per tab of the form.

The docstring under each field is its tooltip, its ``--help`` text and its comment in the written YAML; its
bounds are the range of its spin box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA_VERSION: Final = 1

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
ZYX = tuple[int, int, int]
Spacing = tuple[float, float, float]
FloatRange = tuple[float, float]


class Frozen(BaseModel):
    """Base of all values here: immutable, and an unknown field is an error, not ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def _ordered(value: FloatRange) -> FloatRange:
    if value[0] > value[1]:
        raise ValueError(f"the first value of a range must not be above the second, and {value} is")
    return value


# --- augmentations: one class each, told apart by `name` ------------------------------------------------


class AugmentationSpec(Frozen):
    """What every augmentation has: how often it is applied."""

    probability: Probability = 0.0
    """How often it is applied: 0 is never, 1 is to every patch."""


class Flip(AugmentationSpec):
    """Mirror the patch along z, y and x, each with this probability."""

    name: Literal["flip"] = "flip"
    probability: Probability = 0.5


class Rotate90(AugmentationSpec):
    """Turn the patch by 90, 180 or 270 degrees; in the plane only where z is coarse."""

    name: Literal["rotate90"] = "rotate90"
    probability: Probability = 0.5


class Affine(AugmentationSpec):
    """Rotate, scale and shear the patch; in the plane only where z is coarse."""

    name: Literal["affine"] = "affine"
    probability: Probability = 0.2
    rotation: float = Field(default=20.0, ge=0.0, le=180.0)
    """Largest rotation about an axis, in degrees."""
    scaling: FloatRange = (0.85, 1.2)
    """Smallest and largest zoom."""
    shear: float = Field(default=0.08, ge=0.0, le=0.5)
    """Largest shear (tangent of the angle)."""

    @field_validator("scaling")
    @classmethod
    def _check_scaling(cls, value: FloatRange) -> FloatRange:
        if value[0] <= 0.1 or value[1] > 10:
            raise ValueError("the zoom must lie between 0.1 and 10")
        return _ordered(value)


class Elastic(AugmentationSpec):
    """Bend the patch smoothly, as tissue bends; in the plane only where z is coarse."""

    name: Literal["elastic"] = "elastic"
    probability: Probability = 0.1
    spacing: int = Field(default=16, ge=4, le=256)
    """Distance between the points that are moved, in voxels: larger bends more gently."""
    magnitude: FloatRange = (0.0, 3.0)
    """Smallest and largest typical displacement of these points, in voxels."""

    @field_validator("magnitude")
    @classmethod
    def _check_magnitude(cls, value: FloatRange) -> FloatRange:
        if value[0] < 0:
            raise ValueError("a displacement cannot be negative")
        return _ordered(value)


class IntensityShift(AugmentationSpec):
    """Make the patch brighter or darker by a constant."""

    name: Literal["intensity_shift"] = "intensity_shift"
    probability: Probability = 0.3
    offset: float = Field(default=0.1, ge=0.0, le=2.0)
    """Largest shift up or down, in units of the normalized intensity."""


class IntensityScale(AugmentationSpec):
    """Multiply the intensities of the patch by a factor."""

    name: Literal["intensity_scale"] = "intensity_scale"
    probability: Probability = 0.3
    factor: float = Field(default=0.25, ge=0.0, le=0.95)
    """Largest relative change: 0.25 multiplies by 0.75 to 1.25."""


class Contrast(AugmentationSpec):
    """Change the contrast by a gamma curve."""

    name: Literal["contrast"] = "contrast"
    probability: Probability = 0.2
    gamma: FloatRange = (0.7, 1.5)
    """Smallest and largest gamma; below 1 lifts the dark parts."""

    @field_validator("gamma")
    @classmethod
    def _check_gamma(cls, value: FloatRange) -> FloatRange:
        if value[0] <= 0:
            raise ValueError("gamma must be above 0")
        return _ordered(value)


class Noise(AugmentationSpec):
    """Add Gaussian noise, as of a camera."""

    name: Literal["noise"] = "noise"
    probability: Probability = 0.15
    std: float = Field(default=0.1, ge=0.0, le=2.0)
    """Largest standard deviation of the noise, in units of the normalized intensity."""


class Blur(AugmentationSpec):
    """Blur the patch, as out of focus."""

    name: Literal["blur"] = "blur"
    probability: Probability = 0.1
    sigma: FloatRange = (0.3, 1.0)
    """Smallest and largest sigma of the Gaussian, in voxels."""

    @field_validator("sigma")
    @classmethod
    def _check_sigma(cls, value: FloatRange) -> FloatRange:
        if value[0] < 0:
            raise ValueError("sigma cannot be negative")
        return _ordered(value)


class LowResolution(AugmentationSpec):
    """Simulate a coarser microscope: shrink the patch and enlarge it again."""

    name: Literal["low_resolution"] = "low_resolution"
    probability: Probability = 0.1
    zoom: FloatRange = (0.5, 1.0)
    """Smallest and largest factor of shrinking."""

    @field_validator("zoom")
    @classmethod
    def _check_zoom(cls, value: FloatRange) -> FloatRange:
        if value[0] <= 0.05 or value[1] > 1:
            raise ValueError("the zoom must lie above 0.05 and at most at 1")
        return _ordered(value)


Augmentation = Annotated[
    Flip | Rotate90 | Affine | Elastic | IntensityShift | IntensityScale | Contrast | Noise | Blur | LowResolution,
    Field(discriminator="name"),
]

DEFAULT_AUGMENTATIONS: tuple[Augmentation, ...] = (
    Flip(),
    Rotate90(),
    Affine(),
    Elastic(),
    IntensityShift(),
    IntensityScale(),
    Contrast(),
    Noise(),
    Blur(),
    LowResolution(),
)


# --- the three tabs -------------------------------------------------------------------------------------

LabelKind = Literal["objects", "foreground", "classes"]


class DataConfig(Frozen):
    """The Data tab: where images and labels are, what they mean, and what is held out for validation."""

    images: Path | None = None
    """Folder of the images (TIFF, OME-TIFF, ImageJ TIFF or OME-Zarr), or one such file."""
    labels: Path | None = None
    """Folder of the labels, named like their images, or one such file."""
    results: Path = Path("results")
    """Folder in which every run makes a folder of its own."""
    label_kind: LabelKind = "objects"
    """What label values mean: objects (each cell its own number), foreground (anything above 0), or classes
    (each number a kind of voxel)."""
    ignore_value: int | None = Field(default=None, ge=-1, le=2**32 - 1)
    """Label value of voxels that nobody annotated; they count neither in the loss nor in the Dice."""
    channel: int | None = Field(default=None, ge=0)
    """Which channel of the images to use, count from 0; needed only where there are several."""
    axes: str | None = None
    """Order of the image axes, such as ZYX or CZYX, where the files do not tell."""
    voxel_size: Spacing | None = None
    """Size of a voxel along z, y and x in micrometres, where the files do not tell (it overrides them)."""
    validation_fraction: float = Field(default=0.2, ge=0.05, le=0.8)
    """Share of the volumes held out for validation; never trained on."""
    validation_images: Path | None = None
    """Folder of images for validation, instead of a share of the training images."""
    validation_labels: Path | None = None
    """Folder of the labels of the validation images."""
    normalization: Literal["percentile", "zscore"] = "percentile"
    """How intensities are brought to one scale, volume by volume: percentiles 1 and 99.8 become 0 and 1, or
    mean and standard deviation become 0 and 1."""
    memory_budget_gb: float | None = Field(default=None, gt=0.0)
    """Memory for keeping volumes decoded, in GB; beyond it patches are read from the files. Empty: half of
    what is free at start."""

    @field_validator("axes")
    @classmethod
    def _check_axes(cls, value: str | None) -> str | None:
        if value is None:
            return None
        axes = value.upper()
        if len(set(axes)) != len(axes) or not set(axes) <= set("TCZYX") or not set("ZYX") <= set(axes):
            raise ValueError(f"{value!r} must name each of Z, Y and X once, and may name C and T, such as ZYX or CZYX")
        return axes

    @field_validator("voxel_size")
    @classmethod
    def _check_voxel_size(cls, value: Spacing | None) -> Spacing | None:
        if value is not None and not all(0 < v < 1e6 for v in value):
            raise ValueError("all three sizes of a voxel must be above 0")
        return value

    @model_validator(mode="after")
    def _check_validation_folders(self) -> DataConfig:
        if (self.validation_images is None) != (self.validation_labels is None):
            raise ValueError("validation_images and validation_labels must be given together")
        return self


class AugmentationConfig(Frozen):
    """The Augmentation tab: what the network gets to see of a volume, and how it is varied."""

    patches: bool = True
    """Train on patches cut out of the volumes; otherwise on whole images, padded to one size per batch."""
    patch_size: ZYX | None = None
    """Size of a patch along z, y and x in voxels; close to a power of two is best, such as 64. Empty: chosen
    from the data."""
    samples_per_volume: int = Field(default=12, ge=1, le=10_000)
    """Patches taken from each volume in an epoch: more is likely better, but takes longer."""
    foreground_fraction: float = Field(default=0.7, ge=0.0, le=1.0)
    """Share of the patches that are placed around a labelled voxel; the others lie anywhere."""
    augment: bool = True
    """Vary the training data by the augmentations below."""
    augmentations: tuple[Augmentation, ...] = DEFAULT_AUGMENTATIONS
    """The augmentations and their strength; those left out are off."""

    @field_validator("patch_size")
    @classmethod
    def _check_patch_size(cls, value: ZYX | None) -> ZYX | None:
        if value is not None and not all(8 <= v <= 1024 for v in value):
            raise ValueError("a patch must have 8 to 1024 voxels along each axis")
        return value

    @field_validator("augmentations")
    @classmethod
    def _check_augmentations(cls, value: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        names = [augmentation.name for augmentation in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each augmentation may be given once; given twice: {', '.join(twice)}")
        return value


class TrainingConfig(Frozen):
    """The Training tab: the network, the loss, and how long and how fast it learns."""

    model: str = "unet"
    """The network."""
    model_size: Literal["small", "medium", "large"] = "medium"
    """Size of the network: larger learns more, needs more data, time and memory."""
    starting_weights: Path | None = None
    """A run folder or a model file whose weights training starts from; they must fit the network."""
    target: Literal["auto", "foreground", "objects"] = "auto"
    """What the network learns: foreground (which voxels are cells, or of which class), or objects (also how deep inside
    a cell a voxel lies and where its border is, which tells touching cells apart). Auto: objects where the labels
    number them."""
    loss: str = "dice_ce"
    """What training makes small: how far predictions are from the labels."""
    batch_size: int = Field(default=2, ge=1, le=1024)
    """Patches per training step: larger is quicker per patch and possibly better, but takes more memory."""
    epochs: int = Field(default=60, ge=1, le=100_000)
    """How often training goes through the data; 60 is a start, change it by what the curves show."""
    validation_interval: int = Field(default=1, ge=1, le=10_000)
    """Epochs from one validation to the next."""
    learning_rate: float = Field(default=3e-3, gt=0.0, le=1.0)
    """Largest step of the optimizer (AdamW)."""
    weight_decay: float = Field(default=1e-2, ge=0.0, le=1.0)
    """How strongly weights are pulled towards 0."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """How the learning rate falls: along a cosine to the end, by half whenever the validation Dice stops
    rising, or not at all."""
    warmup_steps: int = Field(default=50, ge=0, le=100_000)
    """Steps over which the learning rate rises from near 0."""
    gradient_clipping: float | None = Field(default=12.0, gt=0.0)
    """Largest norm of the gradient; a larger one is scaled down. Empty: no limit."""
    weight_averaging: bool = True
    """Validate and keep a running average of the weights, which is steadier than the last ones."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Numeric format of the network's arithmetic; auto times the choices at start and takes the fastest one
    that agrees with float32."""
    memory_layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Layout of the arrays in memory; auto times the choices at start."""
    device: str = "auto"
    """Where to train: auto (the GPU when there is one), cpu, cuda, cuda:1, or mps."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Processor threads for training. Empty: all, less one while a window is open."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Start of all random numbers: equal seeds give equal runs."""
    deterministic: bool = False
    """Use only algorithms that repeat exactly, also on a GPU; slower. Needs no timing at start."""
    early_stopping: int | None = Field(default=None, ge=1)
    """End when the validation Dice has not risen for this many validations. Empty: never."""
    max_minutes: float | None = Field(default=None, gt=0.0, le=1e6)
    """End after this many minutes, with a validation. Empty: no limit."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        kind, _, index = value.partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdecimal())):
            raise ValueError(f"{value!r} must be auto, cpu, cuda, cuda:N or mps")
        return value


class RunConfig(Frozen):
    """The exact and complete description of a run; ``config.yaml`` in its folder."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this file's layout."""
    run_name: str | None = None
    """Name of the run's folder. Empty: date, time and network."""
    data: DataConfig = DataConfig()
    """Images and labels."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Patches and their variation."""
    training: TrainingConfig = TrainingConfig()
    """Network, loss and schedule."""

    @field_validator("run_name")
    @classmethod
    def _check_run_name(cls, value: str | None) -> str | None:
        if value is None:
            return None
        forbidden = set('<>:"/\\|?*') | {chr(code) for code in range(32)}
        if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            raise ValueError("a run's name must be text")
        if not value.strip() or value.startswith(".") or value.endswith((".", " ")) or set(value) & forbidden:
            raise ValueError(f'{value!r} cannot name a folder: leave out / \\ : * ? " < > | and leading dots')
        if len(value) > 120:
            raise ValueError("a run's name may have at most 120 characters")
        return value
