"""How probability maps are decoded into numbered objects: the values, which `engine.objects` uses."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from napari_celltrain.values.config import Frozen, LabelKind, Shown

Target = Literal["foreground", "objects"]
"""What a network has learned: foreground or classes only, or also the distance and boundary of each object."""

Method = Literal["components", "watershed", "learned"]

OBJECT_MAPS: Final = ("foreground", "distance", "boundary")
"""The outputs of a network with target ``objects``."""


def choose_target(wanted: Literal["auto", "foreground", "objects"], label_kind: LabelKind) -> Target:
    """What is learned from these labels; `config_file.setting_problems` has refused what cannot be."""
    if wanted != "auto":
        return wanted
    return "objects" if label_kind == "objects" else "foreground"


FIRST_LEVEL: Final = 0.3
"""Seed level of the learned distance until it is tuned."""


class ObjectDecoding(Frozen):
    """From probabilities to objects. Tuned on the validation volumes when a training ends; kept in ``model.yaml``."""

    method: Annotated[Method, Shown("Objects by")] = "components"
    """How touching cells are separated: not at all (connected components), by the shape of the foreground (watershed of
    its distance transform), or by the distance and boundary maps that the network has learned."""
    smoothing_um: Annotated[float, Field(ge=0.0, le=1000.0), Shown("Smoothing", "µm", digits=3)] = 0.0
    """Gaussian smoothing (sigma, µm) of the seed map before peaks are detected."""
    seed_distance_um: Annotated[float, Field(ge=0.0, le=10_000.0), Shown("Seed distance", "µm", digits=3)] = 1.0
    """Smallest distance between two seeds, in µm."""
    seed_level: Annotated[float, Field(ge=0.0, le=10_000.0), Shown(digits=3)] = 0.0
    """Minimum peak height for a seed. Watershed: of the distance transform, in µm; learned: of the learned distance
    from 0 to 1, to which depth adds and from which boundaries take."""
    depth_weight: float = Field(default=0.0, ge=0.0, le=1000.0)
    """Learned only: weight of the distance transform (µm) in the seed map, added to the learned distance."""
    boundary_weight: float = Field(default=0.0, ge=0.0, le=1000.0)
    """Learned only: weight of the boundary map in the seed map, subtracted from the learned distance."""
    min_size_um3: Annotated[float, Field(ge=0.0), Shown("Smallest size", "µm³", digits=3, by_magnitude=True)] = 0.0
    """Smaller objects are removed, in µm³."""
    context_um: float = Field(default=20.0, gt=0.0, le=10_000.0)
    """Context read around each block of a large volume, in µm: the size of a large object."""


METHODS: Final[dict[Method, tuple[str, str]]] = {
    "components": ("connected components", "Touching cells stay together."),
    "watershed": ("watershed of the distance transform", "Touching cells are separated where the foreground narrows."),
    "learned": ("learned borders", "Touching cells are separated where the network sees a border."),
}
"""Label and a line of help of each method."""


def first_decoding(target: Target, extent_um: float, context_um: float) -> ObjectDecoding:
    """The decoding until it is tuned, by the sizes of a typical (``extent_um``) and a large object (``context_um``)."""
    extent_um, context_um = min(max(extent_um, 0.01), 8000.0), min(max(context_um, 0.01), 10_000.0)  # as far as may be
    return ObjectDecoding(
        method="learned" if target == "objects" else "components",
        smoothing_um=extent_um / 8,
        seed_distance_um=extent_um / 3,
        seed_level=FIRST_LEVEL,
        depth_weight=2 / extent_um if target == "objects" else 0.0,  # in the middle of a cell as much as the distance
        boundary_weight=0.5 if target == "objects" else 0.0,
        context_um=context_um,
    )
