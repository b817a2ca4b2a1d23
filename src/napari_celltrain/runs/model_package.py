"""Models from a zip: those that ``celltrain export`` wrote, and zipped run or model folders.

Everything is read from the zip in memory: nothing is unpacked, so no name in it can lead anywhere, and nothing is left
behind. Only ``celltrain.yaml`` (or ``model.yaml``) and ``model.safetensors`` are read; other weights in it (TorchScript
could run code) are never opened. A zip with forged names or sizes is refused, since it is not what we wrote.
"""

from __future__ import annotations

import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import psutil

from napari_celltrain.io.tensors import parse_tensors
from napari_celltrain.values import outside
from napari_celltrain.values.errors import ModelFileError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
CARD = "model.yaml"
PACKED_CARD = "celltrain.yaml"
"""``model.yaml`` in a bioimage.io package, where that name is kept for the package's own description."""

MAX_FILES = 20_000
"""A zipped run folder holds a preview for each validation; no honest one holds more."""
MAX_LIST_BYTES = 2**23
"""Of the list of files at the end of a zip."""
MAX_RATIO = 50
"""How much smaller than itself a file may be packed: weights hardly shrink, and a bomb shrinks by a thousand."""
_SMALL = 2**20
_COPIES = 3
"""Copies of the weights while they are read: the piece, the whole, and the tensors."""

_FOREIGN = ("bioimageio.yaml", "rdf.yaml", "model.rdf.yaml")
_RUN_FILES = ("config.yaml", "events.jsonl")


def read_packed_card(path: Path) -> str:
    """The text of the card in a zip. Raises :class:`ModelFileError` with one sentence."""
    card, _ = _find_model(path)
    try:
        return _read(path, card, outside.MAX_YAML_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFileError(f"{card} in {path.name} is not text. Export the model again.") from None


def read_packed_weights(path: Path, limit: int) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors`` in a zip, at most ``limit`` bytes. Raises :class:`ModelFileError` with one
    sentence."""
    _, weights = _find_model(path)
    return parse_tensors(_read(path, weights, limit), f"{weights} in {path.name}")


def _find_model(path: Path) -> tuple[str, str]:
    """The names of the card and the weights in a zip whose list of files is in order."""
    with _open(path) as archive:
        entries = archive.infolist()
    if len(entries) > MAX_FILES:
        raise ModelFileError(f"{path.name} holds {len(entries)} files, which no exported model does. Export it again.")
    seen: set[str] = set()
    for entry in entries:
        _refuse_forged(path, entry, seen)
    names = [entry.filename for entry in entries if not entry.is_dir()]
    cards = [name for name in names if PurePosixPath(name).name == PACKED_CARD]
    cards = cards or [name for name in names if PurePosixPath(name).name == CARD]
    if not cards:
        raise ModelFileError(_no_card(path, names))
    if len(cards) > 1:
        raise ModelFileError(f"{path.name} holds {len(cards)} models. Zip the folder of one run, or export one.")
    weights = str(PurePosixPath(cards[0]).with_name(WEIGHTS))
    if weights not in names:
        raise ModelFileError(
            f"{path.name} holds {cards[0]}, but not {WEIGHTS} beside it. If CellTrain wrote it, export it again; it "
            "cannot use packages of other programs."
        )
    return cards[0], weights


class _ZipBytes(io.BufferedReader):
    """For ``zipfile``, which reads the whole list of files in one go, however long it claims to be."""

    is_listed = False

    def read(self, size: int | None = -1) -> bytes:
        if not self.is_listed and (size or 0) > MAX_LIST_BYTES:
            raise zipfile.BadZipFile
        return super().read(size)


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    with _ZipBytes(outside.open_file(path, ModelFileError).detach()) as content:
        try:
            archive = zipfile.ZipFile(content)
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read ({error.strerror or error}).") from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError):  # the last where it asks for a newer zip format
            raise ModelFileError(
                f"{path.name} is not a zip file, or it is cut off or damaged. Copy or download it again."
            ) from None
        content.is_listed = True
        yield archive


def _refuse_forged(path: Path, entry: zipfile.ZipInfo, seen: set[str]) -> None:
    """No file that we or any honest program wrote has such a name, kind or size."""
    # zipfile turns the system's separator into "/" and cuts names at a zero: the name as it stands in the file counts
    name = entry.orig_filename
    shown = name if name.isprintable() else repr(name)
    parts = name.split("/")
    factor = entry.file_size / max(1, entry.compress_size)
    found = {
        f"a file named {shown!r}, which leads out of its folder": (
            name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]
        ),
        f"a link ({shown!r}) in the place of a file": stat.S_ISLNK(entry.external_attr >> 16),
        f"two files named {shown!r}": name.casefold() in seen,
        f"an encrypted file ({shown!r})": entry.flag_bits & 0x1,
        f"a file ({shown!r}) that unpacks to {factor:.0f} × its size": entry.file_size > _SMALL and factor > MAX_RATIO,
    }
    for reason, is_so in found.items():
        if is_so:
            raise ModelFileError(f"{path.name} is refused, as it holds {reason}. Get the model again from its author.")
    seen.add(name.casefold())


def _no_card(path: Path, names: list[str]) -> str:
    files = {PurePosixPath(name).name for name in names}
    if files.intersection(_FOREIGN):
        return (
            f"{path.name} is a bioimage.io package of another program, without {PACKED_CARD} and {WEIGHTS}: "
            "CellTrain uses its own networks only. Open it with a program that runs bioimage.io models."
        )
    if files.issuperset(_RUN_FILES):
        return (
            f"The run in {path.name} has no model yet: a model is saved at its first validation. "
            "Resume the run, and zip or export it then."
        )
    return (
        f"{path.name} holds neither {PACKED_CARD} nor {CARD}: it is not a model of CellTrain. Give one that "
        "`celltrain export` wrote."
    )


def _read(path: Path, name: str, limit: int) -> bytes:
    """One file of the zip; what its header says of its size is checked against the bytes that come."""
    again = "Copy, download or export it again."
    with _open(path) as archive:
        size = archive.getinfo(name).file_size
        if size > limit or _COPIES * size > psutil.virtual_memory().available:
            reason = "a model may be" if size > limit else "fits the free memory"
            raise ModelFileError(f"{name} in {path.name} is {size / 1e6:,.3g} MB large, more than {reason}.")
        try:
            with archive.open(name) as file:
                content = file.read(size + 1)  # a bounded read: without a number, a forged size would unpack to any
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError):
            raise ModelFileError(f"{name} in {path.name} is cut off or damaged. {again}") from None
    if len(content) != size:
        raise ModelFileError(f"{name} in {path.name} is not as long as announced. {again}")
    return content
