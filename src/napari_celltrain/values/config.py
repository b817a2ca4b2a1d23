"""All settings of a run, as frozen values: one class per tab of the form.

A field is described here and nowhere else. The docstring under it is its tooltip, its ``--help`` text and its comment
in the written YAML; its bounds are the range of its spin box; its :class:`Shown` adds label and unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Shown:
    """How a field is shown where its name, its type and its bounds do not say it."""

    label: str = ""
    unit: str = ""  # with ``%``, a fraction is shown in percent
    empty: str = "automatic"  # what no value means
    start: Any = None  # the first value once there is to be one
    digits: int | None = None
    """Significant digits shown of a number that a program has computed; the value itself is not rounded."""
    by_magnitude: bool = False  # whether the arrows go along 0.001, 0.002, 0.005, 0.01, ...
    choices: Mapping[str, str] = field(default_factory=dict)  # labels of choices


def _ordered(value: tuple[Any, Any]) -> tuple[Any, Any]:
    if value[0] > value[1]:
        raise ValueError(f"the first value of a range must not be above the second, and {value} is")
    return value


Number = TypeVar("Number")
Range = Annotated[tuple[Number, Number], AfterValidator(_ordered)]
"""The smallest and the largest value, from which one is drawn."""
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
ZYX = tuple[int, int, int]
Spacing = tuple[float, float, float]
_Side = Annotated[int, Field(ge=8, le=1024)]
_Size = Annotated[float, Field(ge=1e-9, le=1e6)]


class Frozen(BaseModel):
    """Base of all values here: immutable, and an unknown field is an error, not ignored."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


class AugmentationSpec(Frozen):
    """What all augmentations share: how often each is applied."""

    probability: Probability = 0.0
    """Probability of applying it to a patch: 0 is never, 1 is always."""


class Flip(AugmentationSpec):
    """Mirror the patch along z, y and x, each with this probability."""

    name: Literal["flip"] = "flip"
    probability: Probability = 0.5


class Rotate90(AugmentationSpec):
    """Rotate the patch by 90, 180 or 270 degrees; only in the plane if z is coarse."""

    name: Literal["rotate90"] = "rotate90"
    probability: Probability = 0.5


class Affine(AugmentationSpec):
    """Rotate, scale and shear the patch; only in the plane if z is coarse."""

    name: Literal["affine"] = "affine"
    probability: Probability = 0.2
    rotation: Annotated[float, Field(ge=0.0, le=180.0), Shown("Rotation up to", "°")] = 20.0
    """Largest rotation about an axis, in degrees."""
    scaling: Range[Annotated[float, Field(ge=0.1, le=10.0)]] = (0.85, 1.2)
    """Smallest and largest zoom factor."""
    shear: Annotated[float, Field(ge=0.0, le=0.5), Shown("Shear up to")] = 0.08
    """Largest shear (tangent of the angle)."""


class Elastic(AugmentationSpec):
    """Deform the patch smoothly, as tissue deforms; only in the plane if z is coarse."""

    name: Literal["elastic"] = "elastic"
    probability: Probability = 0.1
    spacing: Annotated[int, Field(ge=4, le=256), Shown("Grid spacing", "voxels")] = 16
    """Distance between the control points of the deformation grid, in voxels: larger is smoother."""
    magnitude: Annotated[Range[NotNegative], Shown(unit="voxels")] = (0.0, 3.0)
    """Smallest and largest typical displacement of the control points, in voxels."""


class IntensityShift(AugmentationSpec):
    """Make the patch brighter or darker by a constant."""

    name: Literal["intensity_shift"] = "intensity_shift"
    probability: Probability = 0.3
    offset: Annotated[float, Field(ge=0.0, le=2.0), Shown("Largest shift")] = 0.1
    """Largest shift up or down, in units of the normalized intensity."""


class IntensityScale(AugmentationSpec):
    """Multiply the intensities of the patch by a factor."""

    name: Literal["intensity_scale"] = "intensity_scale"
    probability: Probability = 0.3
    factor: Annotated[float, Field(ge=0.0, le=0.95), Shown("Largest change")] = 0.25
    """Largest relative change: 0.25 multiplies by 0.75 to 1.25."""


class Contrast(AugmentationSpec):
    """Change the contrast by a gamma curve."""

    name: Literal["contrast"] = "contrast"
    probability: Probability = 0.2
    gamma: Range[Annotated[float, Field(gt=0.0)]] = (0.7, 1.5)
    """Smallest and largest gamma; below 1 brightens dark regions."""


class Noise(AugmentationSpec):
    """Add Gaussian noise, as from a camera."""

    name: Literal["noise"] = "noise"
    probability: Probability = 0.15
    std: Annotated[float, Field(ge=0.0, le=2.0), Shown("Strength")] = 0.1
    """Largest standard deviation of the noise, in units of the normalized intensity."""


class Blur(AugmentationSpec):
    """Blur the patch, as if out of focus."""

    name: Literal["blur"] = "blur"
    probability: Probability = 0.1
    sigma: Annotated[Range[NotNegative], Shown(unit="voxels")] = (0.3, 1.0)
    """Smallest and largest sigma of the Gaussian, in voxels."""


class LowResolution(AugmentationSpec):
    """Simulate a lower resolution: downsample the patch and upsample it again."""

    name: Literal["low_resolution"] = "low_resolution"
    probability: Probability = 0.1
    zoom: Range[Annotated[float, Field(ge=0.05, le=1.0)]] = (0.5, 1.0)
    """Smallest and largest downsampling factor; 0.5 halves the resolution."""


Augmentation = Annotated[
    Flip | Rotate90 | Affine | Elastic | IntensityShift | IntensityScale | Contrast | Noise | Blur | LowResolution,
    Field(discriminator="name"),
]

DEFAULT_AUGMENTATIONS: tuple[Augmentation, ...] = tuple(cls() for cls in get_args(get_args(Augmentation)[0]))


LabelKind = Literal["objects", "foreground", "classes"]


class DataConfig(Frozen):
    """The Data tab: where images and labels are, what they mean, and what is kept for validation."""

    images: Path | None = None
    """Folder of the images (TIFF, OME-TIFF, ImageJ TIFF or OME-Zarr), or one such file."""
    labels: Path | None = None
    """Folder of the labels, named like their images, or one such file; the same as the images if these are OME-Zarr
    with labels inside."""
    results: Path = Path("results")
    """Folder for the results; each run creates its own folder in it."""
    label_kind: LabelKind = "objects"
    """What the label values mean: objects (each cell has its own number), foreground (all values above 0 are cells),
    or classes (each value is a class of voxels)."""
    ignore_value: Annotated[
        int | None,
        Field(ge=-1, le=2**32 - 1),
        Shown("Not annotated: voxels with the value", empty="none", start=255),
    ] = None
    """Label value of voxels that are not annotated; the loss and the Dice ignore them."""
    channel: Annotated[int | None, Field(ge=0), Shown(empty="the only one")] = None
    """Channel of the images to use, counted from 0; needed only for images with several channels."""
    axes: Annotated[str | None, Shown(empty="as in the files")] = None
    """Order of the image axes, such as ZYX or CZYX, if the files do not store it."""
    voxel_size: Annotated[
        tuple[_Size, _Size, _Size] | None, Shown(unit="µm", empty="as in the files", start=(1.0, 1.0, 1.0))
    ] = None
    """Voxel size along z, y and x in micrometres; overrides the size stored in the files."""
    validation_fraction: Annotated[float, Field(ge=0.05, le=0.8), Shown("Kept for validation", "%")] = 0.2
    """Fraction of the volumes kept for validation; the network is never trained on them."""
    validation_images: Path | None = None
    """Folder of separate images for validation, instead of a fraction of the training images."""
    validation_labels: Path | None = None
    """Folder of the labels of the validation images."""
    normalization: Annotated[Literal["percentile", "zscore"], Shown(choices={"zscore": "z-score"})] = "percentile"
    """How the intensities of each volume are normalized: percentiles 1 and 99.8 become 0 and 1 (percentile), or mean
    and standard deviation become 0 and 1 (zscore)."""
    limit_outliers: bool = True
    """Compress intensities far beyond those of nearly all other voxels, so that a few hot or dead voxels do not
    hide the rest."""
    memory_budget_gb: Annotated[float | None, Field(gt=0.0), Shown("Memory for volumes", "GB", start=4.0)] = None
    """Memory for decoded volumes, in GB; the patches of further volumes are read from the files. Empty: half of the
    memory that is free at the start."""

    @field_validator("axes")
    @classmethod
    def _check_axes(cls, value: str | None) -> str | None:
        axes = None if value is None else value.upper()
        if axes is not None and (len(set(axes)) != len(axes) or not set("ZYX") <= set(axes) <= set("TCZYX")):
            raise ValueError(f"{value!r} must name each of Z, Y and X once, and may name C and T, such as ZYX or CZYX")
        return axes

    @model_validator(mode="after")
    def _check_validation_folders(self) -> DataConfig:
        if (self.validation_images is None) != (self.validation_labels is None):
            raise ValueError("validation_images and validation_labels must be given together")
        return self


class AugmentationConfig(Frozen):
    """The Augmentation tab: how patches are sampled from the volumes, and how they are augmented."""

    patches: bool = True
    """Train on patches cropped from the volumes; otherwise on whole images, padded to one size per batch."""
    patch_size: Annotated[tuple[_Side, _Side, _Side] | None, Shown("Patch size in voxels", start=(64, 64, 64))] = None
    """Patch size along z, y and x in voxels; best close to a power of two, such as 64. Empty: chosen from the data."""
    samples_per_volume: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Patches sampled from each volume per epoch: more are usually better, but take longer."""
    foreground_fraction: Annotated[float, Field(ge=0.0, le=1.0), Shown("Patches centred on cells", "%")] = 0.7
    """Fraction of the patches that are centred near a labelled voxel; the others are placed at random."""
    augment: bool = True
    """Augment the training data as set below."""
    augmentations: tuple[Augmentation, ...] = DEFAULT_AUGMENTATIONS
    """The augmentations and their strengths; those not listed are off."""

    @field_validator("augmentations")
    @classmethod
    def _check_augmentations(cls, value: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        names = [augmentation.name for augmentation in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each augmentation may be given once; given twice: {', '.join(twice)}")
        return value


class TrainingConfig(Frozen):
    """The Training tab: the network, the loss, and how long and how fast to train."""

    model: str = "unet"
    """The network architecture."""
    model_size: Literal["small", "medium", "large"] = "medium"
    """Size of the network: a larger one can learn more, but needs more data, time and memory."""
    starting_weights: Annotated[Path | None, Shown(empty="none: start from random weights")] = None
    """Run folder or model file with pretrained weights to start from; they must fit the network."""
    target: Annotated[Literal["auto", "foreground", "objects"], Shown("Learn")] = "auto"
    """What the network predicts: foreground (which voxels are cells, or their class), or objects (also the distance to
    the cell's surface and the borders between cells, which separate touching cells). Auto: objects if the labels number
    them."""
    loss: str = "dice_ce"
    """The loss function to minimize."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 2
    """Patches per training step: larger batches are faster per patch and less noisy, but need more memory."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 60
    """Number of passes through the training data; 60 is a start, the curves show whether more are needed."""
    validation_interval: Annotated[int, Field(ge=1, le=10_000), Shown(unit="epochs")] = 1
    """Epochs between validations."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0), Shown(by_magnitude=True)] = 3e-3
    """Peak learning rate of the optimizer (AdamW)."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0), Shown(by_magnitude=True)] = 1e-2
    """Weight decay of the optimizer: how strongly weights are pulled towards 0."""
    schedule: Annotated[Literal["cosine", "plateau", "constant"], Shown(choices={"plateau": "halved on a plateau"})] = (
        "cosine"
    )
    """Learning rate schedule: cosine decay to the end, halved when the validation Dice stops rising (plateau), or
    constant."""
    warmup_steps: Annotated[int, Field(ge=0, le=100_000), Shown(unit="steps")] = 50
    """Steps over which the learning rate rises from near 0."""
    gradient_clipping: Annotated[float | None, Field(gt=0.0), Shown(empty="no limit")] = 12.0
    """Largest norm of the gradient; larger gradients are scaled down to it. Empty: no limit."""
    weight_averaging: bool = True
    """Validate and save a running average of the weights, which is more stable than the last ones."""
    precision: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Shown("Number format")] = "auto"
    """Number format of the computation; auto times the formats at the start and takes the fastest that agrees with
    float32."""
    memory_layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Memory layout of the arrays; auto times the layouts at the start."""
    device: str = "auto"
    """Where to train: auto (a GPU if there is one), cpu, cuda, cuda:1, or mps."""
    threads: Annotated[int | None, Field(ge=1, le=1024), Shown("Processor threads")] = None
    """Processor threads for training. Empty: all, or all but one while a window is open."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of all random numbers: equal seeds give equal runs."""
    deterministic: bool = False
    """Use only deterministic algorithms, also on a GPU; slower. Skips the timing at the start."""
    early_stopping: Annotated[
        int | None, Field(ge=1), Shown("Stop when not improving", "validations", empty="never", start=10)
    ] = None
    """Stop if the validation Dice has not improved for this many validations. Empty: never."""
    max_minutes: Annotated[
        float | None, Field(gt=0.0, le=1e6), Shown("Time limit", "min", empty="none", start=60.0)
    ] = None
    """Stop after this many minutes, with a last validation. Empty: no limit."""

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
    """Version of the layout of this file."""
    run_name: str | None = None
    """Name of the run's folder. Empty: date, time and network."""
    data: DataConfig = DataConfig()
    """Images and labels."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Patches and their augmentation."""
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
