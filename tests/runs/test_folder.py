import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disks import Synced, mounted_disks
from napari_celltrain.runs import folder as folder_module
from napari_celltrain.runs import folder as lock_module
from napari_celltrain.runs.folder import Owner, RunFolder, new_events
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import ConfigError, RunFolderError
from napari_celltrain.values.events import EpochDone, Logged, to_json
from napari_celltrain.values.text import describe


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "results", "run", "unet")


def messages(folder: RunFolder) -> list[str]:
    return [event.message for event in folder.read_events() if isinstance(event, Logged)]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "pipe", "loop", "nothing"])
def test_what_is_no_run_folder_is_one_sentence(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RunFolderError, match="run folder"):
        RunFolder.open(tmp_path / name)


class TestCreating:
    def test_names_by_date_and_model_and_never_twice(self, tmp_path, monkeypatch):
        class Noon(datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(2026, 11, 22, 12, 0)

        monkeypatch.setattr(folder_module, "datetime", Noon)
        made = [RunFolder.create(tmp_path / "deep" / "results", None, "unet") for _ in range(3)]
        assert [folder.name for folder in made] == [
            "2026-11-22_1200_unet",
            "2026-11-22_1200_unet_2",
            "2026-11-22_1200_unet_3",
        ]
        subfolders = {"checkpoints", "previews", "validation", "model", "control"}
        assert {path.name for path in made[0].path.iterdir()} == subfolders

    def test_is_there_with_its_files_and_on_the_disk_or_not_at_all(self, tmp_path, monkeypatch):
        results, contents, rename = tmp_path / "results", {"config.yaml": "a", "data.json": "b"}, Path.rename
        synced = Synced(monkeypatch)

        def look(path: Path, target: Path) -> Path:
            assert {name: (path / name).read_text() for name in contents} == contents
            assert {missing.name for missing in synced.missing(path)} == {path.name for path in path.glob("*/")}
            synced.inodes.clear()
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", look)
        RunFolder.create(results, "run", "unet", contents)
        assert [path.name for path in results.iterdir()] == ["run"]
        assert synced.names(tmp_path) == ["results", ""]

    def test_refuses_a_name_that_exists(self, folder, tmp_path):
        (folder.path / "kept.txt").write_text("mine")
        with pytest.raises(RunFolderError, match="exists already"):
            RunFolder.create(tmp_path / "results", "run", "unet")
        assert (folder.path / "kept.txt").read_text() == "mine"

    def test_refuses_where_a_file_is_in_the_way(self, tmp_path):
        (tmp_path / "results").write_text("")
        with pytest.raises(RunFolderError, match="a file is in the way"):
            RunFolder.create(tmp_path / "results", None, "unet")

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
    def test_refuses_without_permission(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(RunFolderError, match="permission denied"):
            RunFolder.create(tmp_path / "results", None, "unet")

    def test_leaves_nothing_half_made(self, tmp_path, monkeypatch):
        real = Path.mkdir

        def full_disk(self, *args, **kwargs):
            if self.name == "model":
                raise OSError(28, "No space left on device")
            real(self, *args, **kwargs)

        monkeypatch.setattr(Path, "mkdir", full_disk)
        with pytest.raises(RunFolderError, match="no space left"):
            RunFolder.create(tmp_path, "run", "unet")
        assert list(tmp_path.iterdir()) == []


class TestOpening:
    def test_takes_the_folder_or_a_file_in_it(self, folder):
        folder.write_config(RunConfig())
        assert RunFolder.open(folder.path).path == folder.path
        assert RunFolder.open(folder.config_file).path == folder.path

    def test_refuses_other_folders(self, tmp_path):
        with pytest.raises(RunFolderError, match="is not a run folder"):
            RunFolder.open(tmp_path)
        with pytest.raises(RunFolderError, match="There is no run folder"):
            RunFolder.open(tmp_path / "nowhere")


class TestWriting:
    def test_a_failing_writer_leaves_the_old_file_and_nothing_else(self, folder):
        folder.write_text("data.json", "old")

        def fail(path: Path) -> None:
            path.write_text("half")
            raise MemoryError

        with pytest.raises(MemoryError):
            folder.write_with("data.json", fail)
        assert folder.data_file.read_text() == "old"
        assert not list(folder.path.glob(".tmp-*"))

    def test_a_full_disk_is_explained(self, folder):
        def fail(path: Path) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(RunFolderError, match=r"data\.json: cannot be written: there is no space left"):
            folder.write_with("data.json", fail)

    def test_writers_see_the_suffix(self, folder):
        seen = []

        def write(path: Path) -> None:
            seen.append(path.suffix)
            path.write_bytes(b"")

        folder.write_with("previews/epoch_0001.tif", write)
        assert (folder.path / "previews" / "epoch_0001.tif").exists()
        assert seen == [".tif"]

    @pytest.mark.skipif(os.name == "nt", reason="kills by signal")
    def test_a_kill_at_any_moment_leaves_a_whole_file(self, folder):
        """The writer alternates two contents, each of one byte value; a mixture or a short file would be torn."""
        code = (
            "import sys; from pathlib import Path; from napari_celltrain.runs.folder import RunFolder\n"
            "folder = RunFolder(Path(sys.argv[1]))\n"
            "while True:\n"
            "    for byte in (b'a', b'b'):\n"
            "        folder.write_bytes('checkpoints/last.bin', byte * 400_000)\n"
            "        print(flush=True)\n"
        )
        for round_number in range(5):
            with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                child.stdout.readline()
                time.sleep(0.004 * round_number)
                child.send_signal(signal.SIGKILL)
            content = (folder.path / "checkpoints" / "last.bin").read_bytes()
            assert len(content) == 400_000
            assert len(set(content)) == 1
        with folder.lock():
            assert [path.name for path in (folder.path / "checkpoints").iterdir()] == ["last.bin"]


class TestEvents:
    def test_come_back(self, folder):
        folder.append_event(Logged(message="naïve\n$x"))
        folder.append_event(Logged(message="2"))
        assert messages(folder) == ["naïve\n$x", "2"]

    def test_a_torn_last_line_is_left_out_and_cut_off_before_the_next(self, folder):
        folder.append_event(Logged(message="1"))
        with folder.events_file.open("ab") as file:
            file.write(to_json(Logged(message="torn")).encode()[:-4])
        assert messages(folder) == ["1"]
        resumed = RunFolder.open(folder.path)
        resumed.append_event(Logged(message="2"))
        assert messages(resumed) == ["1", "2"]
        assert b"torn" not in folder.events_file.read_bytes()

    def test_a_torn_first_line_is_cut_off(self, folder):
        folder.events_file.write_bytes(b'{"event": "log' + b"x" * 10_000)
        folder.append_event(Logged(message="1"))
        assert messages(folder) == ["1"]

    def test_unknown_events_and_garbage_are_passed_over(self, folder):
        folder.events_file.write_bytes(b'{"event":"from_the_future","x":1}\n\x00\x00\xff\n')
        folder.append_event(Logged(message="1"))
        assert messages(folder) == ["1"]

    def test_the_file_is_read_once_and_in_pieces(self, folder, monkeypatch):
        monkeypatch.setattr(folder_module, "MAX_LINE_BYTES", 100)
        looks = new_events(folder.events_file)
        assert next(looks) == []
        for number in range(10):
            folder.append_event(Logged(message=str(number)))
        seen = [event.message for event in itertools.chain.from_iterable(itertools.takewhile(bool, looks))]
        assert seen == [str(number) for number in range(10)]
        folder.append_event(Logged(message="x" * 1000))
        folder.append_event(Logged(message="10"))
        with folder.events_file.open("ab") as file:
            file.write(b"y" * 1000)
        assert [event.message for event in next(looks)] == ["10"]
        assert next(looks) == []
        monkeypatch.setattr(folder_module, "MAX_SKIPPED_BYTES", 1000)
        with folder.events_file.open("ab") as file:
            file.write(b"y" * 100)
        with pytest.raises(RunFolderError, match="does not end"):
            next(looks)

    @pytest.mark.parametrize(
        "line",
        [
            b'{"event":"step_done","epoch":' + b"9" * 400 + b"}",
            b'{"event":"prepared","stage":"x","done":-1}',
            b'{"event":"prepared","stage":"x","total":1e300}',
            b"[" * 100_000,
            b'{"event":"logged","message":"\\ud800"}',
            b"\xff",
        ],
    )
    def test_lines_that_no_run_writes_are_passed_over(self, folder, line):
        folder.events_file.write_bytes(line + b"\n")
        folder.append_event(Logged(message="1"))
        assert messages(folder) == ["1"]

    @pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
    def test_what_is_no_file_is_not_read(self, folder, make):
        make(folder.events_file)
        with pytest.raises(RunFolderError, match=r"events\.jsonl"):
            list(folder.read_events())

    def test_not_numbers_survive(self, folder):
        folder.append_event(
            EpochDone(
                epoch=1, step=2, train_loss=float("nan"), learning_rate=1e-3, seconds=1, remaining_seconds=float("inf")
            )
        )
        (event,) = folder.read_events()
        assert isinstance(event, EpochDone)
        assert event.train_loss != event.train_loss
        assert event.remaining_seconds == float("inf")


def test_the_configuration_comes_back(folder):
    config = RunConfig(run_name="1e3")
    folder.write_config(config)
    assert folder.read_config() == config
    folder.config_file.write_text("training: {epochs: 0}")
    with pytest.raises(ConfigError, match=r"config\.yaml, training\.epochs: must be a whole number from 1"):
        folder.read_config()


class TestRequests:
    def test_the_most_urgent_counts(self, folder):
        assert folder.stop_request() is None
        folder.request_stop(now=False)
        assert folder.stop_request() == "stop"
        folder.request_stop(now=True)
        assert folder.stop_request() == "stop-now"
        with folder.lock():
            assert folder.stop_request() is None

    def test_a_folder_of_that_name_is_none(self, folder):
        (folder.control / "stop").mkdir()
        assert folder.stop_request() is None
        with folder.lock():
            assert folder.stop_request() is None

    def test_are_possible_in_a_folder_without_control(self, folder):
        folder.control.rmdir()
        assert folder.stop_request() is None
        folder.request_stop(now=False)
        assert folder.stop_request() == "stop"


class TestLock:
    def test_is_held_by_one(self, folder):
        assert not folder.is_running()
        with folder.lock():
            assert folder.is_running()
            with pytest.raises(RunFolderError, match=f"still being trained by process {os.getpid()}"), folder.lock():
                pass
        assert not folder.is_running()
        assert list(folder.control.iterdir()) == []

    def test_of_a_dead_process_is_taken_over(self, folder):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        self.pretend(folder, pid=child.pid)
        assert not folder.is_running()
        with folder.lock():
            assert folder.is_running()

    def test_of_a_later_process_of_the_same_number_is_taken_over(self, folder):
        self.pretend(folder, started="1")
        with folder.lock():
            pass

    @pytest.mark.parametrize(
        "elsewhere",
        [{"host": "another-computer"}, {"machine": "a container, or a start before this one"}, {"started": 0.0}],
        ids=["host", "machine", "version 0.1"],
    )
    def test_of_another_computer_counts_while_it_is_renewed(self, folder, elsewhere):
        self.pretend(folder, pid=1, **elsewhere)
        assert folder.is_running()
        with pytest.raises(RunFolderError, match="still being trained by process 1"), folder.lock():
            pass
        long_ago = time.time() - 1000
        os.utime(folder.control / "running.json", (long_ago, long_ago))
        assert not folder.is_running()
        with folder.lock():
            pass

    def test_is_renewed(self, folder, monkeypatch):
        monkeypatch.setattr(lock_module, "RENEWAL_SECONDS", 0.01)
        with folder.lock():
            path = folder.control / "running.json"
            os.utime(path, (0, 0))
            deadline = time.monotonic() + 5
            while path.stat().st_mtime == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert path.stat().st_mtime > 0

    @pytest.mark.parametrize("step", [-1e6, -10, 10, 1e6])
    def test_outlasts_a_step_of_the_clock(self, folder, monkeypatch, step):
        """What psutil says of the start of a process moves with the clock."""
        created, now = psutil.Process.create_time, time.time
        with folder.lock():
            self.pretend(folder)
            monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + step)
            monkeypatch.setattr(time, "time", lambda: now() + step)
            assert folder.is_running()
            with pytest.raises(RunFolderError, match="still being trained"), folder.lock():
                pass

    def test_of_another_computer_is_dated_by_the_clock_of_the_disk(self, folder, monkeypatch):
        self.pretend(folder, host="another-computer")
        monkeypatch.setattr(time, "time", lambda: 1e12)
        with pytest.raises(RunFolderError, match="on another-computer"), folder.lock():
            pass

    def test_a_guard_that_a_kill_left_is_taken_away_whatever_the_clock_says(self, folder, monkeypatch):
        monkeypatch.setattr(lock_module, "_GUARD_SECONDS", 0.1)
        (folder.control / "taking").mkdir()
        (folder.control / "taking" / ".DS_Store").touch()
        with folder.lock():
            assert folder.is_running()

    def test_follows_no_link_out_of_the_folder(self, folder, tmp_path):
        outside = tmp_path / "outside"
        outside.mkdir()
        for name in (".tmp-1234abcd.tif", "stop"):
            (outside / name).write_text("mine")
        (folder.path / ".tmp-1234abcd.png").write_text("left by a kill")
        folder.validation.rmdir()
        folder.validation.symlink_to(outside, target_is_directory=True)
        with folder.lock():
            assert not list(folder.path.glob(".tmp-*"))
        folder.control.rmdir()
        folder.control.symlink_to(outside, target_is_directory=True)
        with pytest.raises(RunFolderError, match=r"control is a link to another folder\. Put"), folder.lock():
            pass
        assert {path.name for path in outside.iterdir()} == {".tmp-1234abcd.tif", "stop"}

    def test_on_a_read_only_disk_says_so(self, tmp_path):
        with mounted_disks(tmp_path) as make_disk:
            disk = make_disk("usb", 1)
            folder = RunFolder.create(disk.path, "run", "unet")
            disk.make_read_only()
            with pytest.raises(RunFolderError, match=r"usb/run.*the disk is read-only\. Make it"), folder.lock():
                pass

    def test_damaged_is_taken_over(self, folder):
        (folder.control / "running.json").write_text("{")
        with folder.lock():
            assert folder.is_running()

    def test_goes_to_one_of_many(self, folder):
        """All try at once to take over the lock of a dead process."""
        self.pretend(folder, started="1")
        barrier, release, taken, refused = threading.Barrier(8), threading.Event(), [], []

        def take() -> None:
            barrier.wait()
            try:
                with folder.lock():
                    taken.append(1)
                    release.wait(5)
            except RunFolderError:
                refused.append(1)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5
        while len(refused) < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        release.set()
        for thread in threads:
            thread.join()
        assert (len(taken), len(refused)) == (1, 7)

    @staticmethod
    def pretend(folder: RunFolder, **changes: object) -> None:
        content = Owner.this_process().model_dump() | changes
        (folder.control / "running.json").write_text(json.dumps(content))


@given(st.binary(max_size=300), st.integers(0, 2**16), st.integers(0, 60))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_events_or_passed_over(folder, junk, place, length):
    events = [
        Logged(message="é"),
        EpochDone(epoch=1, step=2, train_loss=1, learning_rate=1, seconds=1, remaining_seconds=1),
    ]
    content = b"".join(to_json(event).encode() + b"\n" for event in events)
    place %= len(content)
    folder.events_file.write_bytes(content[:place] + junk + content[place + length :])
    for event in folder.read_events():
        assert describe(event)


@given(
    st.binary(max_size=100)
    | st.fixed_dictionaries(
        {
            name: st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
            for name in ("pid", "started")
        },
        optional={
            "host": st.just(socket.gethostname()) | st.text(max_size=5),
            "machine": st.text(max_size=5) | st.integers(),
        },
    ).map(lambda content: json.dumps(content).encode())
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lock_is_read(folder, content):
    (folder.control / "running.json").write_bytes(content)
    folder.is_running()
