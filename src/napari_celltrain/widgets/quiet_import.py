"""Importing torch in a thread without holding up the window.

The system loads its libraries for half a second, and Python's lock is held meanwhile: nothing in the window moves.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from pathlib import Path

_GLOBAL_LIBRARY = "torch_global_deps"
_LIBRARIES = ("c10", "torch_cpu", "c10_cuda", "torch_cuda")


def import_engine() -> None:
    """Import what trains and predicts, while :func:`switching.begin` is in force."""
    if "torch" not in sys.modules:
        _load_libraries()
    import monai.networks.nets  # noqa: F401 - imported only to be there already


def _load_libraries() -> None:
    """Have the system load torch's libraries by a call for which ctypes lets go of Python's lock.

    What it cannot load is left to torch, which knows more ways. On Windows torch itself does it like this.
    """
    spec = importlib.util.find_spec("torch")
    if os.name == "nt" or spec is None or spec.origin is None:
        return
    ending = "dylib" if sys.platform == "darwin" else "so"
    with contextlib.suppress(OSError, AttributeError):
        load = ctypes.CDLL(None).dlopen
        load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
        for name in (_GLOBAL_LIBRARY, *_LIBRARIES):
            path = Path(spec.origin).parent / "lib" / f"lib{name}.{ending}"
            if path.is_file():
                load(os.fsencode(path), os.RTLD_NOW | (os.RTLD_GLOBAL if name == _GLOBAL_LIBRARY else os.RTLD_LOCAL))
