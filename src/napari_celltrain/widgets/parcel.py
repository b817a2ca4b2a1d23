"""What is handed to a worker of napari once."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Parcel(Generic[T]):
    """Holds its content until it is taken. napari never lets go of a worker, nor of what it was given."""

    def __init__(self, content: T) -> None:
        self._content: list[T] = [content]

    def take(self) -> T:
        """Raises ``LookupError`` the second time."""
        return self._content.pop()
