"""Python's lock changes hands sooner only while something of ours is at work."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from napari_celltrain.widgets.responsive import quick_switching


def test_the_interval_is_short_as_long_as_anybody_works_and_then_as_before() -> None:
    before = sys.getswitchinterval()
    first, second = ExitStack(), ExitStack()
    first.enter_context(quick_switching())
    assert sys.getswitchinterval() < before
    second.enter_context(quick_switching())
    first.close()
    assert sys.getswitchinterval() < before
    second.close()
    assert sys.getswitchinterval() == before
