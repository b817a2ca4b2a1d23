"""bioimage.io's libraries, kept quiet."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def bioimageio_ready() -> Iterator[None]:
    """Within it the libraries write nothing to standard error, and leave all settings of others alone."""
    import torch
    from loguru import logger

    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that they set
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    logger.disable("bioimageio")
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        logger.enable("bioimageio.spec")  # core is silent by itself
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warn)
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
