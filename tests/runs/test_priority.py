"""A process that steps back does so with all its threads, and against other sessions, too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_celltrain.runs.process import NICENESS, SESSION_NICENESS, step_back

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for what Linux tells of threads")

# Threads begin when a line comes, as those of torch do long after the process.
CHILD = """
import sys, threading
sys.stdin.readline()
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", CHILD], start_new_session=True, **pipes)
    yield process
    process.communicate("\n", timeout=30)


def test_every_thread_has_the_low_priority(child: subprocess.Popen[str]) -> None:
    step_back(child.pid)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "ready\n"
    threads = [int(place.name) for place in Path(f"/proc/{child.pid}/task").iterdir()]
    assert len(threads) == 4
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {NICENESS}


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not group by sessions")
def test_its_session_has_it_and_ours_has_not(child: subprocess.Popen[str]) -> None:
    before = Path("/proc/self/autogroup").read_text()
    step_back(child.pid)
    assert Path(f"/proc/{child.pid}/autogroup").read_text().split()[-1] == str(SESSION_NICENESS)
    assert Path("/proc/self/autogroup").read_text() == before


def test_a_process_that_is_gone_is_no_error() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    step_back(process.pid)
