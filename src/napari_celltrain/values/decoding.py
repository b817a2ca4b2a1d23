"""How the maps of a network become numbered objects: the values; `engine.objects` does it."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from napari_celltrain.values.config import Frozen, LabelKind

Target = Literal["foreground", "objects"]
"""What a network has learned: which voxels are cells (or of which class), or also where one cell ends and the next
begins."""

Method = Literal["components", "watershed", "learned"]

OBJECT_MAPS: Final = ("foreground", "distance", "boundary")
"""The outputs of a network with target ``objects``."""


def choose_target(wanted: Literal["auto", "foreground", "objects"], label_kind: LabelKind) -> Target:
    """What is learned from these labels; `settings.setting_problems` has refused what cannot be."""
    if wanted == "auto":
        return "objects" if label_kind == "objects" else "foreground"
    return wanted


FIRST_LEVEL: Final = 0.3
"""Seed level of the learned distance until it is tuned."""


class ObjectDecoding(Frozen):
    """From probabilities to objects. Tuned on the validation volumes when a training ends; kept in ``model.yaml``."""

    method: Method = "components"
    """How touching cells are told apart: not at all (connected pieces), by the shape of the foreground (watershed of
    its distance map), or by the distance and boundary that the network has learned."""
    smoothing_um: float = Field(default=0.0, ge=0.0, le=1000.0)
    """How much the map in which middles of cells are sought is smoothed before: sigma of the Gaussian in µm."""
    seed_distance_um: float = Field(default=1.0, ge=0.0, le=10_000.0)
    """Smallest distance between the middles of two cells, in µm."""
    seed_level: float = Field(default=0.0, ge=0.0, le=10_000.0)
    """How clear the middle of a cell must be: the smallest height of the map in which middles are sought (for the
    watershed: the depth below the cell's surface in µm; learned: the learned distance from 0 to 1, with what
    depth adds to it and boundaries take from it)."""
    depth_weight: float = Field(default=0.0, ge=0.0, le=1000.0)
    """Learned only: what each µm below the surface of the foreground adds to the learned distance."""
    boundary_weight: float = Field(default=0.0, ge=0.0, le=1000.0)
    """Learned only: how much a boundary with another cell takes from the learned distance."""
    min_size_um3: float = Field(default=0.0, ge=0.0)
    """Smaller objects are left out, in µm³."""
    context_um: float = Field(default=20.0, gt=0.0, le=10_000.0)
    """How far around a block of a large volume is looked at, in µm: the size of a large object."""


def first_decoding(target: Target, extent_um: float, context_um: float) -> ObjectDecoding:
    """What objects are decoded with until that is tuned. ``extent_um`` is the size of a typical object, ``context_um``
    that of a large one."""
    return ObjectDecoding(
        method="learned" if target == "objects" else "components",
        smoothing_um=extent_um / 8,
        seed_distance_um=extent_um / 3,
        seed_level=FIRST_LEVEL,
        depth_weight=2 / extent_um if target == "objects" else 0.0,  # in the middle of a cell as much as the distance
        boundary_weight=0.5 if target == "objects" else 0.0,
        context_um=context_um,
    )
