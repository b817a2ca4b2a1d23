"""Questions to the file system that a drive which went away must not leave the window waiting for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATIENCE = 0.3  # seconds; a disk that has to start takes longer, and is asked again the next time


def are_there(paths: Sequence[Path], ask: Callable[[Path], bool] = Path.exists) -> list[bool]:
    """Of each path, whether it exists (or what else ``ask`` says); False where there is no answer in time.

    Each is asked for by a thread of its own: one that hangs holds up no other, and not the end of the program.
    """
    answers = [False] * len(paths)

    def find_out(index: int) -> None:
        try:
            answers[index] = ask(paths[index])
        except OSError:  # such as a name that is too long
            answers[index] = False

    threads = [threading.Thread(target=find_out, args=(index,), daemon=True) for index in range(len(paths))]
    end = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(answers)
