"""Asks a process of its own for devices and the costs of networks, so that the window never imports torch."""

from __future__ import annotations

import atexit
import json
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from qtpy.QtCore import QCoreApplication, QObject, QProcess, QProcessEnvironment, QTimer, Signal

from napari_celltrain.config import Spacing
from napari_celltrain.widgets.costs import DeviceSpeed, NetworkCosts


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    free: int
    """Bytes."""
    total: int


@dataclass(frozen=True, slots=True)
class Devices:
    """What this computer can train on."""

    gpus: tuple[Gpu, ...]
    mps: bool
    threads: int
    free: int
    """Bytes of the computer's memory."""

    def kind(self, device: str) -> str:
        """``cpu``, ``cuda`` or ``mps``: what ``auto`` will become, else the device itself."""
        if device == "auto":
            return "cuda" if self.gpus else "mps" if self.mps else "cpu"
        return device.partition(":")[0]

    def gpu(self, device: str) -> Gpu | None:
        index = int(device.partition(":")[2] or 0)
        return self.gpus[index] if self.kind(device) == "cuda" and index < len(self.gpus) else None


class CostFinder(QObject):
    """What has been found out so far; ``found`` comes with each new fact."""

    found = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.devices: Devices | None = None
        self._costs: dict[tuple[str, str], NetworkCosts] = {}
        self._speeds: dict[str, DeviceSpeed] = {}
        self._asked: tuple[str, ...] | None = None
        self._process: QProcess | None = None
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.stop)

    def costs(self, model: str, size: str) -> NetworkCosts | None:
        return self._costs.get((model, size))

    def speed(self, device_kind: str) -> DeviceSpeed | None:
        return self._speeds.get(device_kind)

    @property
    def is_looking(self) -> bool:
        return self._process is not None

    def look(self, num_outputs: int, voxel_size: Spacing | None) -> None:
        """Find out what there is to know about networks for such data, unless that is known or under way."""
        arguments = (str(num_outputs), *(f"{size:.6g}" for size in voxel_size or ()))
        if arguments == self._asked:
            return
        self.stop()
        self._asked = arguments
        self._costs.clear()
        process = QProcess()
        _running.add(process)  # Qt complains of a process that is destroyed before it has ended
        self.destroyed.connect(process.kill)
        process.finished.connect(partial(QTimer.singleShot, 0, partial(_running.discard, process)))
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("OMP_WAIT_POLICY", "PASSIVE")  # as in training: waiting threads must not spin
        process.setProcessEnvironment(environment)
        process.setStandardErrorFile(QProcess.nullDevice())
        process.readyReadStandardOutput.connect(self._read)
        process.finished.connect(self._end)
        self._process = process
        process.start(sys.executable, ["-P", "-m", "napari_celltrain.widgets.network_facts", *arguments])

    def stop(self) -> None:
        """End the process, as when training needs the computer; :meth:`look` begins anew."""
        process, self._process = self._process, None
        if process is None:
            return
        self._asked = None
        process.readyReadStandardOutput.disconnect(self._read)
        process.finished.disconnect(self._end)
        process.kill()
        process.waitForFinished(2000)

    def _read(self) -> None:
        process = self._process
        while process is not None and process.canReadLine():
            line = bytes(process.readLine().data())
            try:
                facts = json.loads(line)
            except ValueError:
                continue  # some library printed to standard output
            if isinstance(facts, dict):
                self._take(facts)
        self.found.emit()

    def _take(self, facts: dict[str, Any]) -> None:
        kind = facts.pop("kind", None)
        if kind == "devices":
            self.devices = Devices(
                tuple(Gpu(**gpu) for gpu in facts["gpus"]), facts["mps"], facts["threads"], facts["free"]
            )
        elif kind == "network":
            key = facts.pop("key"), facts.pop("size")
            self._costs[key] = NetworkCosts(**facts)
        elif kind == "speed":
            device = facts.pop("device")
            self._speeds[device] = DeviceSpeed(**facts)

    def _end(self) -> None:
        self._process = None
        self.found.emit()


_running: set[QProcess] = set()
_shared: CostFinder | None = None


@atexit.register
def _end_all() -> None:
    for process in tuple(_running):
        process.kill()
        process.waitForFinished(2000)


def shared_finder() -> CostFinder:
    """One for all windows of this program: what it has found stays true when the widget is opened again."""
    global _shared
    if _shared is None:
        _shared = CostFinder()
    return _shared
