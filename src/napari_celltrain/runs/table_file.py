"""Tables for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
import numbers
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from napari_celltrain.errors import DataError
from napari_celltrain.runs import atomic

# What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file, whole or not at all. Numbers are written in full; None and NaN become empty cells.

    Text that a spreadsheet would take for a formula gets an apostrophe before it. Raises :class:`DataError`.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(title) for title in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    write_file(path, buffer.getvalue())


def write_file(path: Path, content: str) -> None:
    """Text in UTF-8, whole or not at all. Raises :class:`DataError` naming the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, content.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise refusal(path, error) from error


def refusal(path: Path, error: OSError) -> DataError:
    """What to tell the user when ``path`` could not be written."""
    reason = error.strerror or str(error) or type(error).__name__
    return DataError(f"{path} cannot be written: {reason}. Choose another place with --output, or free some space.")


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return "" if math.isnan(number) else repr(number)
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
