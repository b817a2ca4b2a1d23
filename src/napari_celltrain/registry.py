"""One table per choice: what a file calls it, what a person reads, and how it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from napari_celltrain.values.errors import ConfigError

B = TypeVar("B", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Entry(Generic[B]):
    """A choice: ``key`` for files, ``label`` for people, one line of ``help``, and its builder, which imports torch and
    MONAI inside itself, so that listing choices stays instant."""

    key: str
    label: str
    help: str
    build: B


class Registry(Generic[B]):
    """Choices of one kind, in the order in which they were registered.

    With ``entry_point_group``, other packages add choices: each entry point of that group must resolve to
    an :class:`Entry`. They are looked up at the first use.
    """

    def __init__(self, kind: str, entry_point_group: str | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[B]] = {}
        self._group = entry_point_group

    def register(self, key: str, label: str, help: str) -> Callable[[B], B]:
        """Decorate a builder to add it under ``key``."""

        def add(build: B) -> B:
            self.add(Entry(key, label, help, build))
            return build

        return add

    def add(self, entry: Entry[B]) -> None:
        if entry.key in self._entries:
            raise ValueError(f"{self.kind} {entry.key!r} is registered twice")
        self._entries[entry.key] = entry

    def __getitem__(self, key: str) -> Entry[B]:
        entries = {entry.key: entry for entry in self}
        if key not in entries:
            close = get_close_matches(key, list(entries), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"There is no {self.kind} called {key!r}.{hint} The choices are: {', '.join(entries)}.")
        return entries[key]

    def __contains__(self, key: object) -> bool:
        return any(entry.key == key for entry in self)

    def __iter__(self) -> Iterator[Entry[B]]:
        group, self._group = self._group, None
        for point in entry_points(group=group) if group is not None else ():
            try:
                entry = point.load()
            except Exception as error:  # a foreign package may fail in any way; say which one
                raise ConfigError(
                    f"The {self.kind} {point.name!r} of the package {point.dist.name if point.dist else '?'} cannot be "
                    f"loaded ({error}). Update or uninstall that package."
                ) from error
            if not isinstance(entry, Entry):
                raise ConfigError(
                    f"The entry point {point.value!r} does not give a registry entry; "
                    f"a {self.kind} must be a napari_celltrain.registry.Entry."
                )
            self.add(entry)
        return iter(list(self._entries.values()))

    def keys(self) -> list[str]:
        return [entry.key for entry in self]
