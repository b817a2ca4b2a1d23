"""Lengths as files write them, in micrometres."""

from __future__ import annotations

import math

from napari_celltrain.config import Spacing

# Spellings of ImageJ, OME (UDUNITS symbols) and OME-Zarr (UDUNITS names). Pixels are deliberately not among
# them: a spacing "in pixels" says that nobody calibrated the file.
_MICROMETRES = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "a": 1e-4,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "inch": 25400.0,
    "in": 25400.0,
    "dm": 1e5,
    "decimeter": 1e5,
    "m": 1e6,
    "meter": 1e6,
}


def micrometres_per(unit: str | None) -> float | None:
    """How long one ``unit`` is; None where it is no unit of length that we know (such as ``pixel``)."""
    if unit is None:
        return None
    word = unit.strip().strip("\"'").lower()
    # ImageJ escapes the micro sign, which itself exists twice in Unicode.
    for micro in ("\\u00b5", "\\u03bc", "\u00b5", "\u03bc"):
        word = word.replace(micro, "u")
    word = word.replace("metre", "meter")
    for candidate in (word, word.removesuffix("s"), word.removesuffix("es")):
        if candidate in _MICROMETRES:
            return _MICROMETRES[candidate]
    return None


def spacing_or_none(z: float | None, y: float | None, x: float | None) -> Spacing | None:
    """The three as a voxel size, or None unless all are finite and above 0."""
    if z is None or y is None or x is None:
        return None
    if not all(math.isfinite(v) and 0 < v < 1e6 for v in (z, y, x)):
        return None
    return float(z), float(y), float(x)
