"""What the window says in its own words."""

from __future__ import annotations

import pytest

from napari_celltrain.widgets.field_labels import in_the_window


@pytest.mark.parametrize(
    ("message", "button"),
    [
        ("It was killed. What it had saved is intact; continue with `celltrain resume /data/my run`.", "Resume"),
        ("Nothing had been saved yet; start it again with `celltrain train /data/run`.", "Start"),
    ],
)
def test_buttons_take_the_place_of_commands(message: str, button: str) -> None:
    shown = in_the_window(message)
    assert button in shown
    assert "celltrain" not in shown
    assert shown.split(";")[0] == message.split(";")[0]


def test_fields_take_the_place_of_options() -> None:
    assert in_the_window("Take more patches (--samples-per-volume 8).") == "Take more patches (Samples per volume 8)."
    assert in_the_window("pip install --upgrade torch") == "pip install --upgrade torch"
