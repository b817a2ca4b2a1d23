"""Messages of the command line in the window's words."""

from __future__ import annotations

import re

from napari_celltrain.values.fields import all_fields


def in_the_window(message: str) -> str:
    """``message`` with the window's buttons and fields in the place of commands and their options."""
    message = re.sub(r"continue with `celltrain resume [^`]*`", "continue with Resume, below", message)
    message = re.sub(r"start it again with `celltrain train [^`]*`", "start it again with Start", message)
    return re.sub(r"`?--([a-z][a-z-]+)`?(?=[ ,.)])", _field_of, message)


def _field_of(option: re.Match[str]) -> str:
    """The label of the field that an option of the command line sets; other options stay as they are."""
    name = option[1].replace("-", "_")
    return next((facts.label for path, facts in all_fields().items() if path.partition(".")[2] == name), option[0])
