"""Python's lock changes hands sooner only while something of ours is at work."""

from __future__ import annotations

import sys

from napari_celltrain.widgets import switching


def test_the_interval_is_short_as_long_as_anybody_works_and_then_as_before() -> None:
    before = sys.getswitchinterval()
    switching.begin()
    assert sys.getswitchinterval() < before
    with switching.quick_switching():
        switching.end()
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before
