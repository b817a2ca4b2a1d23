"""What a run saves on its way: the state to resume from, the best weights with their model, and the previews."""

from __future__ import annotations

import io
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from napari_celltrain.io.tensors import read_tensors, write_tensors
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import ModelCard, write_model
from napari_celltrain.values import outside
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import CellTrainError, Problem, RunFolderError
from napari_celltrain.values.events import Saved, StopRequest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from napari_celltrain.engine.precision import NumericFormat
    from napari_celltrain.engine.trainer import Progress

LAST = "checkpoints/last.pt"
LAST_OF_0_1 = "checkpoints/last.safetensors"
"""As version 0.1 called it."""
BEST = "checkpoints/best.safetensors"
MAX_PICKLE_BYTES = 1 << 24
"""Of what a saved state holds besides the numbers of its tensors."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that ``last`` holds: with it a run goes on as if it had never stopped."""

    state: Mapping[str, Any]
    """As of ``Learner.state``."""
    progress: Progress
    numeric_format: NumericFormat


@dataclass(frozen=True, slots=True)
class FolderCheckpointer:
    """The trainer's :class:`~napari_celltrain.engine.trainer.Checkpointer`.

    ``folder`` is None in the processes of a distributed run that are not the first: they write nothing.
    """

    folder: RunFolder | None
    numeric_format: NumericFormat
    make_card: Callable[[], ModelCard]
    """Of the best model so far."""
    preview_voxel_size: Spacing | None

    def save_last(self, state: dict[str, Any], progress: Progress) -> str:
        if self.folder is not None:
            import torch

            # through memory: torch hides what the system says of a full disk
            content = io.BytesIO()
            torch.save({"learner": state, "progress": asdict(progress), **asdict(self.numeric_format)}, content)
            self.folder.write_bytes(LAST, content.getvalue())
        return LAST

    def save_best(self, weights: dict[str, Tensor], epoch: int) -> str:
        if self.folder is not None:
            self.folder.write_with(BEST, lambda path: write_tensors(path, weights, {"epoch": epoch}))
            # the model is renewed at once, so that a run that is killed leaves a usable one
            write_model(self.folder, self.make_card(), weights)
        return BEST

    def save_preview(self, epoch: int, prediction_ZYX: NDArray[Any]) -> str:
        name = f"previews/epoch_{epoch:04d}.tif"
        if self.folder is not None:
            smallest = np.min_scalar_type(prediction_ZYX.max(initial=0))
            self.folder.write_volume(name, prediction_ZYX.astype(smallest), self.preview_voxel_size)
        return name

    def stop_request(self) -> StopRequest | None:
        return None if self.folder is None else self.folder.stop_request()


def read_last(folder: RunFolder) -> Checkpoint | None:
    """The state to resume ``folder`` from; None where it had saved none yet. Raises :class:`RunFolderError`."""
    import torch

    from napari_celltrain.engine.precision import NumericFormat

    name = next((name for name in (LAST, LAST_OF_0_1) if os.path.isfile(folder.path / name)), None)  # noqa: PTH113
    if name is None:
        if any(isinstance(event, Saved) and event.what == "last" for event in folder.read_events()):
            message = f"The saved state of the run {folder.name} is missing: there is no {folder.path / LAST}."
            remedy = "Put it back, or start a new run with this one's starting weights."
            raise RunFolderError(Problem("no-state", "", message, remedy))
        return None
    path = folder.path / name
    try:
        if name == LAST:
            _refuse_other_content(path)
        found = torch.load(path, "cpu", weights_only=True) if name == LAST else _read_0_1(path)
        numeric_format = TypeAdapter(NumericFormat).validate_python(
            {key: found[key] for key in ("precision", "layout")}
        )
        return Checkpoint(found["learner"], _progress(found["progress"]), numeric_format)
    except Exception as error:  # what torch raises depends on where a file is damaged
        reason = f"{path.name} in {path.parent} is damaged or was not written by this program"
        if isinstance(error, OSError | CellTrainError):
            reason = str(error).removesuffix(".")
        raise RunFolderError(
            f"The saved state of the run {folder.name} cannot be read ({reason}). Its best model may still be usable; "
            "start a new run with these starting weights."
        ) from error


_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}


def _refuse_other_content(path: Path) -> None:
    """Raise ``ValueError`` for a file that ``torch.save`` did not write of tensors and plain values. What else
    ``torch.load`` admits runs no code, but may fill the memory."""
    with outside.open_file(path, RunFolderError) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        [pickled] = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or pickled.file_size > MAX_PICKLE_BYTES:
            raise ValueError("it is packed")
        for code, argument, _ in pickletools.genops(archive.read(pickled)):
            is_storage = re.fullmatch(r"torch \w+Storage", str(argument)) is not None
            if "GLOBAL" in code.name and not (is_storage or argument in _GLOBALS):
                raise ValueError(f"it holds {argument}")


def _progress(content: Mapping[str, Any]) -> Progress:
    """Raises ``ValueError`` for values that no run saves."""
    from napari_celltrain.engine.trainer import Progress

    types: dict[str, Any] = {field.name: type(field.default) for field in fields(Progress)}
    values: dict[str, Any] = {name: content[name] for name in types.keys() & content.keys()}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | types[name]):
            raise ValueError(f"its {name} is not a number")
        if types[name] is int and not 0 <= value < 2**53:
            raise ValueError(f"its {name} is not a count")
    progress = Progress(**values)
    if progress.epoch < 1 or (progress.step_in_epoch and progress.step_in_epoch >= progress.steps_per_epoch):
        raise ValueError("it is in the middle of no epoch")
    return progress


def _read_0_1(path: Path) -> dict[str, Any]:
    """The content of ``last.pt``, from the flat named tensors of version 0.1."""
    from napari_celltrain.engine.precision import NumericFormat

    tensors, meta = read_tensors(path)
    groups: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}, "random": {}}
    for name, tensor in tensors.items():
        group, _, key = name.partition("/")
        groups[group][key] = tensor
    layout = NumericFormat(meta["precision"], meta["layout"]).memory_format
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups.pop("optimizer").items():
        index, _, key = name.partition("/")
        # they were stored contiguous, but the fused optimizer needs them laid out as their weights
        moments.setdefault(int(index), {})[key] = (
            tensor.contiguous(memory_format=layout) if tensor.ndim == 5 else tensor
        )
    return {"learner": {**groups, "moments": moments, "scaler": meta["scaler"]}, **meta}
