"""Parts of volumes, voxel sizes, and what a file's axes are taken for."""

from __future__ import annotations

import math

import pytest

from napari_celltrain.io.axes import SeveralChannelsError, plan_layout, spacing_of, with_margins
from napari_celltrain.io.volume import three_slices
from napari_celltrain.values.errors import DataError


def test_margins_end_at_the_volume() -> None:
    region = (slice(0, 4), slice(5, 9), slice(8, None))
    outer, inner = with_margins(region, (2, 3, 1), (10, 10, 10))
    assert outer == (slice(0, 6), slice(2, 10), slice(7, 10))
    assert inner == (slice(0, 4), slice(3, 7), slice(1, 3))


@pytest.mark.parametrize(
    ("lengths", "factors", "expected"),
    [
        ((2.0, 0.5, 0.5), (1.0, 1.0, 1.0), (2.0, 0.5, 0.5)),
        ((2000, 500, 400), (1e-3, 1e-3, 1e-3), (2.0, 0.5, 0.4)),
        ((2.0, 0.5, 0.5), (1.0, None, 1.0), None),
        ((2.0, 0.0, 0.5), (1.0, 1.0, 1.0), None),
        ((math.nan, 0.5, 0.5), (1.0, 1.0, 1.0), None),
        ((math.inf, 0.5, 0.5), (1.0, 1.0, 1.0), None),
    ],
)
def test_a_voxel_size_is_known_whole_or_not_at_all(lengths, factors, expected) -> None:
    assert spacing_of(lengths, factors) == (None if expected is None else pytest.approx(expected))


def test_a_volume_is_indexed_by_slices_only() -> None:
    assert three_slices(slice(2)) == (slice(2), slice(None), slice(None))
    with pytest.raises(TypeError, match="up to three slices"):
        three_slices((slice(2), 3))  # type: ignore[arg-type]


def test_errors_carry_their_parts_and_the_setting_that_helps() -> None:
    with pytest.raises(DataError) as caught:
        plan_layout("a.tif", "QQYX", (2, 3, 8, 8))
    (problem,) = caught.value.problems
    assert (problem.where, problem.settings) == ("a.tif", ("data.axes",))
    assert problem.remedy == "Give the order of the axes, for example CZYX."
    with pytest.raises(SeveralChannelsError) as several:
        plan_layout("a.tif", "ZCYX", (5, 3, 8, 8))
    assert several.value.num_channels == 3
    assert several.value.problems[0].settings == ("data.channel",)
