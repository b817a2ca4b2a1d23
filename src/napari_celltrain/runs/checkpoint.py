"""What a run keeps on its way: the state to resume from, the best weights with their model, and the previews."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from napari_celltrain.io.tensors import read_tensors, write_tensors
from napari_celltrain.runs.folder import RunFolder, StopRequest
from napari_celltrain.runs.model import ModelCard, write_model
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import ModelFileError, RunFolderError

if TYPE_CHECKING:
    from torch import Tensor

    from napari_celltrain.engine.precision import NumericFormat
    from napari_celltrain.engine.trainer import Progress

LAST = "checkpoints/last.safetensors"
BEST = "checkpoints/best.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that ``last`` holds: with it a run goes on as if it had never stopped."""

    tensors: dict[str, Tensor]
    progress: Progress
    scaler: dict[str, Any]
    numeric_format: NumericFormat


class FolderKeeper:
    """The trainer's :class:`~napari_celltrain.engine.trainer.Keeper` that writes a run folder."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        numeric_format: NumericFormat,
        card: Callable[[], ModelCard],
        preview_voxel_size: Spacing | None,
    ) -> None:
        self._folder = folder
        self._numeric_format = numeric_format
        self._card = card
        self._preview_voxel_size = preview_voxel_size

    def save_last(self, tensors: dict[str, Tensor], progress: Progress, scaler: dict[str, Any]) -> str:
        meta = {
            "progress": progress.as_dict(),
            "scaler": scaler,
            "precision": self._numeric_format.precision,
            "layout": self._numeric_format.layout,
        }
        self._folder.write_with(LAST, lambda path: write_tensors(path, tensors, meta))
        return LAST

    def save_best(self, weights: dict[str, Tensor], epoch: int) -> str:
        self._folder.write_with(BEST, lambda path: write_tensors(path, weights, {"epoch": epoch}))
        # the deliverable is renewed at once, so that a run that is killed leaves a usable model
        write_model(self._folder, self._card(), weights)
        return BEST

    def save_preview(self, epoch: int, prediction_ZYX: NDArray[Any]) -> str:
        name = f"previews/epoch_{epoch:04d}.tif"
        self._folder.write_volume(name, prediction_ZYX, self._preview_voxel_size)
        return name

    def stop_request(self) -> StopRequest | None:
        return self._folder.stop_request()


class NoKeeper:
    """Keeps nothing: for the processes of a distributed run that are not the first."""

    def save_last(self, tensors: dict[str, Tensor], progress: Progress, scaler: dict[str, Any]) -> str:
        return LAST

    def save_best(self, weights: dict[str, Tensor], epoch: int) -> str:
        return BEST

    def save_preview(self, epoch: int, prediction_ZYX: NDArray[Any]) -> str:
        return ""

    def stop_request(self) -> StopRequest | None:
        return None


def read_last(folder: RunFolder) -> Checkpoint:
    """The state to resume ``folder`` from. Raises :class:`RunFolderError`."""
    from napari_celltrain.engine.precision import NumericFormat
    from napari_celltrain.engine.trainer import Progress

    if not os.path.isfile(folder.path / LAST):  # noqa: PTH113 - pathlib's raises where there is no permission
        raise RunFolderError(
            f"The run {folder.name} ended before its first validation, so there is nothing to resume. "
            f"Start it again: celltrain train {folder.config_file}"
        )
    try:
        tensors, meta = read_tensors(folder.path / LAST)
        names = {field.name for field in fields(Progress)}
        progress = Progress(**{name: value for name, value in meta["progress"].items() if name in names})
        return Checkpoint(
            tensors=tensors,
            progress=progress,
            scaler=dict(meta["scaler"]),
            numeric_format=NumericFormat(meta["precision"], meta["layout"]),
        )
    except (ModelFileError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"The saved state of the run {folder.name} cannot be read ({error}). Its best model may still be usable; "
            "start a new run with these starting weights."
        ) from error
