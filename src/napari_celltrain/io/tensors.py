"""Tensors on disk as safetensors: nothing in such a file can run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_celltrain.values import outside
from napari_celltrain.values.errors import ModelFileError

if TYPE_CHECKING:
    from torch import Tensor

META_KEY = "celltrain"
MAX_HEADER_BYTES = 1 << 21
"""Enough for ten thousand tensors; a longer header only takes time."""

_TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
# what a header that is not ours may lead to
_DAMAGED = (ValueError, KeyError, AttributeError, TypeError, RecursionError)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and a JSON value beside them to ``path`` (not atomically: see ``RunFolder.write_with``).

    Some networks reach one tensor under several names; it is stored once, and the other names with it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    first: dict[object, str] = {}
    for name, tensor in tensors.items():
        first.setdefault((tensor.data_ptr(), tensor.shape) if tensor.numel() else name, name)
    stored = {name: tensors[name] for name in first.values()}
    aliases = {name: first[tensor.data_ptr(), tensor.shape] for name, tensor in tensors.items() if name not in stored}
    header = json.dumps({"aliases": aliases, "meta": dict(meta)}, allow_nan=True)
    try:
        save_file(stored, path, metadata={META_KEY: header})
    except SafetensorError as error:
        # its own class hides what the system said, which is worded where files are written
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the processor) and the JSON value of a file. Raises :class:`ModelFileError` naming the file."""
    from safetensors import SafetensorError, safe_open

    with outside.open_file(path, ModelFileError) as opened:  # safetensors would wait at a pipe
        start = opened.read(8)
    try:
        _header_length(start)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file cannot be iterated
        return _with_aliases(tensors, metadata)
    except (SafetensorError, OSError, *_DAMAGED) as error:
        raise ModelFileError(f"{path.name} in {path.parent} is damaged or not a safetensors file ({error}).") from error


def _header_length(start: bytes) -> int:
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError("its header is too long")
    return length


def parse_tensors(content: bytes, where: str) -> dict[str, Tensor]:
    """As :func:`read_tensors`, from the content of a file that errors call ``where``, and the tensors only."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # the format: the length of the header in 8 bytes, then the header as JSON
        header = json.loads(content[8 : 8 + _header_length(content[:8])])
        return _with_aliases(load(content), header.get("__metadata__", {}))[0]
    except (SafetensorError, *_DAMAGED) as error:
        raise ModelFileError(f"{where} is damaged or not a safetensors file ({error}).") from error


def _with_aliases(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    strange = next((tensor.dtype for tensor in tensors.values() if str(tensor.dtype)[6:] not in _TYPES), None)
    if strange is not None:
        raise ValueError(f"it holds numbers of type {strange}, which no model of this program does")
    header = json.loads(metadata.get(META_KEY, "{}"))
    tensors |= {name: tensors[kept] for name, kept in header.get("aliases", {}).items()}
    return tensors, header.get("meta", {})
