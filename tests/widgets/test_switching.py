"""Python's lock changes hands sooner, and full collections wait, only while something of ours is at work."""

from __future__ import annotations

import gc
import sys
from contextlib import ExitStack

from napari_celltrain.widgets.responsive import background_work


def test_the_interval_is_short_as_long_as_anybody_works_and_then_as_before() -> None:
    before = sys.getswitchinterval()
    first, second = ExitStack(), ExitStack()
    first.enter_context(background_work())
    assert sys.getswitchinterval() < before
    second.enter_context(background_work())
    first.close()
    assert sys.getswitchinterval() < before
    second.close()
    assert sys.getswitchinterval() == before


def test_full_collections_are_put_off_as_long_as_anybody_works() -> None:
    before = gc.get_threshold()
    with background_work():
        with background_work():
            assert gc.get_threshold()[2] > before[2]
        assert gc.get_threshold()[2] > before[2]
        assert gc.get_threshold()[:2] == before[:2]
    assert gc.get_threshold() == before
