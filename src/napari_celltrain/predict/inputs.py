"""What is to be segmented, opened and shown to the network as its training data were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_celltrain.data.resample import labels_back, maps_back, resampled
from napari_celltrain.io.axes import WHOLE
from napari_celltrain.io.volume import LazyArray, Volume
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.errors import DataError, ModelFileError
from napari_celltrain.values.events import Warned

MAX_SCALE_RATIO = 1.5
"""How far a voxel size may be from that of the training data: beyond it, cells look unlike those that were learned."""


@dataclass(frozen=True, slots=True)
class OpenedInput:
    """A volume, and the image in it as the network sees it."""

    request: InputRequest
    volume: Volume
    raw: LazyArray
    """The volume's own voxels: of these the intensities are measured, also where the network sees other ones."""
    image: LazyArray
    voxel_size: Spacing | None
    """Of ``image``."""
    is_resampled: bool

    def labels_on_grid(self, labels: LazyArray) -> LazyArray:
        """What was found in ``image``, in the grid of the volume."""
        return LabelsBack(labels, self.volume.shape) if self.is_resampled else labels

    def map_on_grid(self, values: LazyArray) -> LazyArray:
        return maps_back(values, self.volume.shape) if self.is_resampled else values


@dataclass(frozen=True, slots=True)
class InputRequest:
    """A file, and what its user says of it."""

    path: Path
    axes: str | None = None
    channel: int | None = None
    voxel_size: Spacing | None = None
    resample: bool = False

    def look(self, card: ModelCard) -> Volume:
        """Read the header. Raises :class:`CellTrainError` for what the model cannot take."""
        channel = card.channel if self.channel is None else self.channel
        try:
            volume = open_volume(self.path, axes=self.axes, channel=channel, voxel_size=self.voxel_size)
        except DataError:
            if card.channel is None or channel != card.channel:
                raise
            # trained on one channel of several; an image that has just one channel is that channel
            volume = open_volume(self.path, axes=self.axes, voxel_size=self.voxel_size)
        if not self.resample:
            refuse_other_scale(volume, card)
        elif volume.voxel_size is None or card.voxel_size is None:
            whose = "the model" if volume.voxel_size is not None else volume.where
            raise DataError(
                f"{volume.where}: cannot be resampled, since the voxel size of {whose} is not known. Give that of the "
                "image with --voxel-size Z,Y,X, or leave --resample out."
            )
        return volume

    def open(self, card: ModelCard) -> OpenedInput:
        """Read what cannot be read piece by piece, and resample where this is asked for."""
        volume = self.look(card)
        image: LazyArray | None = volume.lazy()
        if image is None:
            image = volume.read()
        size = volume.voxel_size
        wanted = self.resample and size is not None and card.voxel_size is not None
        if not wanted or size == card.voxel_size or size is None or card.voxel_size is None:
            return OpenedInput(self, volume, image, image, size, False)
        return OpenedInput(self, volume, image, resampled(image, size, card.voxel_size), card.voxel_size, True)


def refuse_other_scale(volume: Volume, card: ModelCard) -> None:
    if volume.voxel_size is None or card.voxel_size is None:
        return
    ratios = [max(a / b, b / a) for a, b in zip(volume.voxel_size, card.voxel_size, strict=True)]
    if max(ratios) <= MAX_SCALE_RATIO:
        return
    raise ModelFileError(
        f"{volume.where}: its voxels of {_um(volume.voxel_size)} µm (z, y, x) are too unlike those of "
        f"{_um(card.voxel_size)} µm that the model was trained on. Have the image resampled (--resample), or, if its "
        "metadata are wrong, give the true size with --voxel-size Z,Y,X."
    )


def unknown_size(volume: Volume, card: ModelCard) -> Warned:
    """To be told where nothing says whether the image fits the model."""
    return Warned(
        message=f"{volume.where}: does not tell the size of its voxels. It is taken to be that of the training "
        f"images, {_um(card.spacing)} µm (z, y, x). If it is another one, give it with --voxel-size Z,Y,X."
    )


def _um(voxel_size: Spacing) -> str:
    return " × ".join(f"{size:.3g}" for size in voxel_size)


@dataclass(frozen=True, slots=True)
class LabelsBack:
    """Labels of a resampled image in the grid of ``grid``, made as they are read (a :class:`LazyArray`)."""

    labels: LazyArray
    grid: ZYX

    @property
    def shape(self) -> tuple[int, ...]:
        return self.grid

    @property
    def dtype(self) -> Any:
        return self.labels.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        z, y, x = (*(key if isinstance(key, tuple) else (key,)), *WHOLE)[:3]
        return labels_back(self.labels, self.grid, z)[:, y, x]
