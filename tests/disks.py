"""Real disks for tests, to be filled, made read-only, or pulled out. Linux lets only root mount them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

UNREADABLE = Path("/sys/bus/platform/uevent")
"""A file of Linux that can only be written to: not even root may read it."""
_BALLAST = "ballast"
_MB = 1_000_000


class Disk:
    """A mounted file system in memory, of ``megabytes``."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        _mount("-t", "tmpfs", "-o", f"size={megabytes * _MB}", "celltrain-test", str(path))

    def fill(self) -> None:
        """Down to the last byte."""
        with (self.path / _BALLAST).open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(64 * 1024))
        assert shutil.disk_usage(self.path).free == 0

    def free(self) -> None:
        (self.path / _BALLAST).unlink()

    def make_read_only(self) -> None:
        """As a disk that reports an error, or a share that is mounted anew. Fails while a file is open for writing."""
        _mount("-o", "remount,ro", str(self.path))

    def make_writable(self) -> None:
        _mount("-o", "remount,rw", str(self.path))

    def detach(self) -> None:
        """Pull it out, also while files on it are open; an empty folder remains in its place."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True, capture_output=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


class Synced:
    """Records what is written through to the disk itself, by its inode, which a rename does not change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inodes: list[int] = []
        really = os.fsync

        def fsync(descriptor: int) -> None:
            self.inodes.append(os.fstat(descriptor).st_ino)
            really(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    def names(self, folder: Path) -> list[str]:
        """In their order; "" is the folder itself."""
        known = {path.stat().st_ino: path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        known[folder.stat().st_ino] = ""
        return [known[inode] for inode in self.inodes if inode in known]

    def missing(self, folder: Path) -> list[Path]:
        """Files and folders in ``folder`` that a power cut may take."""
        return [path for path in (folder, *folder.rglob("*")) if path.stat().st_ino not in self.inodes]


@contextlib.contextmanager
def mounted_disks(folder: Path) -> Iterator[MakeDisk]:
    """Makes disks in ``folder``, and takes them away at the end. Skips the test where none can be mounted."""
    make = MakeDisk(folder)
    try:
        yield make
    finally:
        for disk in make.disks:
            if os.path.ismount(disk.path):
                disk.detach()


class MakeDisk:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.disks: list[Disk] = []

    def __call__(self, name: str, megabytes: int) -> Disk:
        if not sys.platform.startswith("linux") or os.geteuid() != 0:
            pytest.skip("Only root can mount a disk for this test, and only on Linux.")
        try:
            disk = Disk(self._folder / name, megabytes)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"No disk can be mounted here: {error}")
        self.disks.append(disk)
        return disk
