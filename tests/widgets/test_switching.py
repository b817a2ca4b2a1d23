"""Python's lock changes hands sooner only while something of ours is at work."""

from __future__ import annotations

import gc
import sys

from napari_celltrain.widgets import responsive


def test_the_interval_is_short_as_long_as_anybody_works_and_then_as_before() -> None:
    before = sys.getswitchinterval()
    responsive.begin()
    assert sys.getswitchinterval() < before
    with responsive.quick_switching():
        responsive.end()
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before


def test_full_collections_are_put_off_until_something_large_is_given_away() -> None:
    before = gc.get_threshold()
    with responsive.quick_switching():
        assert gc.get_threshold()[2] > before[2]
        assert gc.get_threshold()[:2] == before[:2]
        responsive.collect_as_usual()
        assert gc.get_threshold() == before
    assert gc.get_threshold() == before
    responsive.collect_as_usual()
    assert gc.get_threshold() == before
