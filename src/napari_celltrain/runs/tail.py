"""Reading an ``events.jsonl`` that another process may be writing at this moment."""

from __future__ import annotations

from pathlib import Path

from napari_celltrain.errors import RunFolderError
from napari_celltrain.events import Event, from_json


class EventTail:
    """The events of one file; each call of :meth:`read_new` gives those added since the last one.

    Only whole lines count, so an event that is half written is left for the next call. Lines that are no
    event that we know are passed over: they are from a newer version, or damage of a power cut.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read_new(self) -> list[Event]:
        """Raises ``RunFolderError`` where the file exists but cannot be read."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunFolderError(f"{self._path} cannot be read: {error.strerror or error}.") from error
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := _parse(line)) is not None]


def _parse(line: bytes) -> Event | None:
    try:
        return from_json(line)
    except ValueError:
        return None
