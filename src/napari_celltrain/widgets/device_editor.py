"""The choice of the device, with its name and free memory once they are known."""

from __future__ import annotations

import sys

from qtpy.QtWidgets import QWidget

from napari_celltrain.widgets.cost_finder import Devices, Gpu
from napari_celltrain.widgets.costs import gigabytes
from napari_celltrain.widgets.editors import Choice, ChoiceEditor
from napari_celltrain.widgets.wording import count

_LOOKING = "Looking for devices …"


class DeviceEditor(ChoiceEditor):
    """Edits ``training.device``."""

    def __init__(self, parent: QWidget | None = None) -> None:
        self._devices: Devices | None = None
        super().__init__(_choices(None), parent)

    def set_devices(self, devices: Devices) -> None:
        """Name the devices that were found, and leave out those that were not."""
        if devices != self._devices:
            self._devices = devices
            self.set_choices(_choices(devices))

    def _choice_of(self, value: str) -> Choice:
        missing = "" if self._devices is None else "Not found on this computer."
        return Choice(value, value, missing)


def _choices(devices: Devices | None) -> list[Choice]:
    if devices is None:
        choices = [Choice("auto", "automatic", _LOOKING), Choice("cpu", "processor (CPU)")]
        gpus = [Choice("cuda", "GPU (CUDA)", _LOOKING)]
        return choices + (gpus if sys.platform != "darwin" else [Choice("mps", "Apple GPU (MPS)", _LOOKING)])
    processor = f"{count(devices.threads, 'core')}, {gigabytes(devices.free)} of memory free."
    choices = [Choice("auto", "automatic", _automatic(devices)), Choice("cpu", "processor (CPU)", processor)]
    if devices.gpus:
        choices.append(Choice("cuda", "GPU (CUDA)", _describe(devices.gpus[0])))
    if len(devices.gpus) > 1:
        choices += [Choice(f"cuda:{n}", f"GPU {n}: {gpu.name}", _describe(gpu)) for n, gpu in enumerate(devices.gpus)]
    if devices.mps:
        choices.append(Choice("mps", "Apple GPU (MPS)", f"{gigabytes(devices.free)} of memory free, shared with it."))
    return choices


def _automatic(devices: Devices) -> str:
    if devices.gpus:
        return f"Will be the GPU: {_describe(devices.gpus[0])}"
    processor = f"{count(devices.threads, 'core')}, {gigabytes(devices.free)} of memory free"
    if devices.mps:
        return f"Will be the Apple GPU; {gigabytes(devices.free)} of memory free."
    return f"Will be the processor, as there is no GPU: {processor}."


def _describe(gpu: Gpu) -> str:
    return f"{gpu.name}, {gigabytes(gpu.free)} of {gigabytes(gpu.total)} free."
