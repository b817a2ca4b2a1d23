"""The commands that train, with a stand-in for the training itself."""

import json
import os
import signal
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from napari_celltrain.cli import follow as follow_module
from napari_celltrain.cli.main import app, main
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import DataError
from napari_celltrain.values.events import (
    EpochDone,
    Event,
    Failed,
    Finished,
    Logged,
    Prepared,
    Started,
    StepDone,
    Validated,
    from_json,
)

FINISHED = Finished(
    reason="epochs",
    epoch=2,
    best_epoch=2,
    best_dice=0.9,
    best_f1=0.8,
    seconds=10,
    compute_share=0.9,
    validation_share=0.1,
    peak_memory_gb=1,
)


class FakeSession(types.ModuleType):
    """Makes a run folder and tells ``events``; an exception among them is raised."""

    def __init__(self) -> None:
        super().__init__("napari_celltrain.runs.session")
        self.config: RunConfig | None = None
        self.resumed: tuple[object, ...] = ()
        self.closed = False
        self.events: list[Event | BaseException | signal.Signals] = [
            StepDone(epoch=1, step=1, step_in_epoch=1, loss=0.5, learning_rate=1e-3, seconds=0.1),
            EpochDone(epoch=1, step=1, train_loss=0.5, learning_rate=1e-3, seconds=3, remaining_seconds=3),
            Validated(epoch=1, step=1, dice=0.9, f1=0.8, volumes=(), seconds=1, is_best=True),
            FINISHED,
        ]

    def run(self, config: RunConfig) -> Iterator[Event]:
        self.config = config
        folder = RunFolder.create(config.data.results, config.run_name, config.training.model)
        folder.write_config(config)
        yield from self._tell(folder, 1)

    def resume(self, path: Path, *, epochs: int | None, max_minutes: float | None) -> Iterator[Event]:
        self.resumed = (path, epochs, max_minutes)
        yield from self._tell(RunFolder(path), 3)

    def _tell(self, folder: RunFolder, first_epoch: int) -> Iterator[Event]:
        yield Started(
            run=folder.name,
            first_epoch=first_epoch,
            epochs=2,
            steps_per_epoch=1,
            num_training=4,
            num_validation=1,
            num_parameters=1000,
            model="unet",
            loss="dice_ce",
            patch_size=None,
            batch_size=2,
            device="CPU",
            numeric_format="float32",
        )
        try:
            for event in self.events:
                if isinstance(event, signal.Signals):
                    signal.raise_signal(event)
                    yield Logged(message=f"request: {folder.stop_request()}")
                elif isinstance(event, BaseException):
                    raise event
                else:
                    yield event
        finally:
            self.closed = True


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    import napari_celltrain.runs as runs

    fake = FakeSession()
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(runs, "session", fake, raising=False)
    monkeypatch.delenv("RANK", raising=False)
    return fake


@pytest.fixture
def celltrain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run a command line as from a shell: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def celltrain(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["celltrain", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err  # type: ignore[arg-type]

    return celltrain


ARGUMENTS = ("train", "--images", "images", "--labels", "labels", "--run-name", "run")


def test_options_become_the_configuration(session, celltrain, tmp_path):
    code, *_ = celltrain(
        *ARGUMENTS,
        *("--results", "out", "--model", "segresnet", "--loss", "tversky", "--epochs", "7", "--batch-size", "3"),
        *("--validation-interval", "4", "--validation-fraction", "0.3", "--whole-images", "--patch-size", "32,48,64"),
        *("--samples-per-volume", "9", "--no-augment", "--learning-rate", "1e-4", "--seed", "5", "--device", "cpu"),
        *("--max-minutes", "2.5", "--set", "data.channel=1", "--set", "augmentation.augmentations.elastic.spacing=8"),
    )
    assert code == 0
    config = session.config
    assert config is not None
    assert config.run_name == "run"
    assert config.data.images == tmp_path / "images"
    assert config.data.results == tmp_path / "out"
    assert config.data.validation_fraction == 0.3
    assert config.data.channel == 1
    assert config.augmentation.patches is False
    assert config.augmentation.augment is False
    assert config.augmentation.patch_size == (32, 48, 64)
    assert config.augmentation.samples_per_volume == 9
    training = config.training
    assert (training.model, training.loss, training.epochs, training.batch_size) == ("segresnet", "tversky", 7, 3)
    assert (training.validation_interval, training.learning_rate, training.seed) == (4, 1e-4, 5)
    assert (training.device, training.max_minutes) == ("cpu", 2.5)


def test_options_override_the_file_only_when_given(session, celltrain, tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {images: a, labels: b}\ntraining: {epochs: 5, batch_size: 4}")
    assert celltrain("train", "mine.yaml", "--epochs", "6")[0] == 0
    assert session.config is not None
    assert (session.config.training.epochs, session.config.training.batch_size) == (6, 4)


def test_lines_where_there_is_no_terminal(session, celltrain, tmp_path):
    code, out, err = celltrain(*ARGUMENTS)
    assert code == 0
    assert err == ""
    assert "\x1b" not in out
    assert "\r" not in out
    lines = out.splitlines()
    assert lines[1] == "Epoch 1: loss 0.5000, 3.0 s, 3.0 s left"
    assert lines[2] == "Validation after epoch 1: Dice 0.9000, F1 0.8000, the best so far"
    assert not any("step" in line for line in lines[1:])


def test_a_run_ends_with_what_to_do_next(session, celltrain, tmp_path):
    run = tmp_path / "my results" / "run"
    for arguments in (*ARGUMENTS, "--results", "my results"), ("resume", "my results/run"):
        steps = [line.strip() for line in celltrain(*arguments)[1].splitlines()[-3:]]
        assert steps == [
            f"Everything is in:   {run}",
            f"Look at the curves: {run / 'training_final.png'}",
            f"Segment volumes:    celltrain predict '{run}' NEW_VOLUMES --output DIR",
        ]


def test_a_run_without_an_end_still_says_where_it_is(session, celltrain, tmp_path):
    session.events = []
    assert celltrain(*ARGUMENTS)[1].splitlines()[-1] == f"The run is in {tmp_path / 'results' / 'run'}"


def test_json_is_events_and_nothing_else(session, celltrain):
    code, out, err = celltrain(*ARGUMENTS, "--json")
    assert (code, err) == (0, "")
    events = [from_json(line) for line in out.splitlines()]
    assert [event.event for event in events] == ["started", "step_done", "epoch_done", "validated", "finished"]
    assert all(abs(event.time - time.time()) < 60 for event in events)


def test_json_keeps_the_time_that_the_folder_gave(session, celltrain):
    session.events = [FINISHED.model_copy(update={"time": 12.5})]
    out = celltrain(*ARGUMENTS, "--json")[1]
    assert from_json(out.splitlines()[-1]).time == 12.5


def test_other_processes_are_silent(session, celltrain, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert celltrain(*ARGUMENTS) == (0, "", "")


def test_all_wrong_options_are_told_at_once(session, celltrain):
    code, out, err = celltrain(
        "train", "--epochs", "0", "--batch-size", "many", "--model", "unett", "--set", "data.x=1"
    )
    assert (code, out) == (2, "")
    for part in (
        "training.epochs (--epochs): must be a whole number from 1 to 100000",
        "training.batch_size (--batch-size): must be a whole number",
        "Did you mean 'unet'?",
        "data.x: there is no such setting",
        "data.images (--images): No folder of images is given. Give one, or a single file.",
        "data.labels (--labels): No folder of labels is given. Give one, or a single file.",
    ):
        assert part in err
    assert "Traceback" not in err
    assert session.config is None


def test_a_program_hears_of_settings_and_folders_that_are_refused_before_the_run(session, celltrain):
    for arguments in ((*ARGUMENTS, "--epochs", "-3"), ("resume", "nowhere")):
        code, out, err = celltrain(*arguments, "--json")
        [event] = [from_json(line) for line in out.splitlines()]
        assert code in (2, 4)
        assert isinstance(event, Failed)
        assert ("epochs" if "train" in arguments else "nowhere") in event.message
        assert err.startswith("Error: ")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_refusal_is_one_message_and_its_own_exit_code(session, celltrain, as_json):
    session.events = [DataError("a.tif is empty. [red]Remove it.")]
    code, out, err = celltrain(*ARGUMENTS, *(["--json"] if as_json else []))
    assert code == 3
    assert err == "Error: a.tif is empty. [red]Remove it.\n"
    kinds = [json.loads(line)["event"] for line in out.splitlines()] if as_json else []
    assert kinds.count("failed") == as_json


def test_a_failure_that_came_as_an_event_is_told_once(session, celltrain):
    session.events = [Failed(message="The network is full.")]
    code, out, err = celltrain(*ARGUMENTS)
    assert code == 6
    assert (out + err).count("The network is full.") == 1


def test_our_own_mistakes_leave_a_report_and_no_traceback(session, celltrain, tmp_path):
    session.events = [ZeroDivisionError("oops")]
    code, out, err = celltrain(*ARGUMENTS)
    assert code == 70
    assert "Traceback" not in out + err
    assert "ZeroDivisionError: oops" in err
    (report,) = (tmp_path / "results" / "run").glob("celltrain-error-*.log")
    assert str(report) in err.replace("\n", "")
    assert "Traceback" in report.read_text()


class TestInterrupts:
    def test_once_is_the_stop_button(self, session, celltrain):
        session.events = [signal.SIGINT, FINISHED]
        code, out, _ = celltrain(*ARGUMENTS)
        assert code == 0
        assert "request: stop\n" in out

    def test_the_first_says_what_the_second_does(self, session, celltrain, monkeypatch):
        said: list[str] = []
        monkeypatch.setattr("napari_celltrain.cli.follow.report_at_once", said.append)
        session.events = [signal.SIGINT, FINISHED]
        celltrain(*ARGUMENTS)
        assert "(Ctrl-C again: end after this batch)" in said[0]

    def test_twice_is_now(self, session, celltrain):
        session.events = [signal.SIGINT, signal.SIGINT, FINISHED]
        code, out, _ = celltrain(*ARGUMENTS)
        assert code == 130
        assert "request: stop-now\n" in out
        assert "Finished" in out

    def test_three_times_is_by_force(self, session, celltrain):
        session.events = [signal.SIGINT, signal.SIGINT, signal.SIGINT, FINISHED]
        code, out, err = celltrain(*ARGUMENTS)
        assert code == 130
        assert "Finished" not in out
        assert "Traceback" not in err
        assert session.closed

    def test_a_signal_to_terminate_is_now(self, session, celltrain):
        session.events = [signal.SIGTERM, FINISHED]
        code, out, _ = celltrain(*ARGUMENTS)
        assert code == 143
        assert "request: stop-now\n" in out

    def test_before_training_it_simply_ends(self, session, celltrain, monkeypatch):
        def interrupted(config: RunConfig) -> Iterator[Event]:
            signal.raise_signal(signal.SIGINT)
            yield FINISHED

        monkeypatch.setattr(session, "run", interrupted)
        assert celltrain(*ARGUMENTS) == (130, "", "")

    def test_handlers_are_put_back(self, session, celltrain):
        before = signal.getsignal(signal.SIGINT)
        celltrain(*ARGUMENTS)
        assert signal.getsignal(signal.SIGINT) is before

    def test_of_other_processes_are_left_to_the_first(self, session, celltrain, monkeypatch, tmp_path):
        monkeypatch.setenv("RANK", "1")
        session.events = [signal.SIGINT, FINISHED]
        assert celltrain(*ARGUMENTS)[0] == 0
        assert RunFolder(tmp_path / "results" / "run").stop_request() is None


class TestResume:
    def test_passes_its_options_on(self, session, celltrain, tmp_path):
        celltrain(*ARGUMENTS)
        run = tmp_path / "results" / "run"
        code, out, _ = celltrain("resume", str(run), "--epochs", "9", "--max-minutes", "3")
        assert code == 0
        assert session.resumed == (run, 9, 3.0)
        assert "continued at epoch 3" in out

    def test_refuses_what_is_no_run_folder(self, session, celltrain, tmp_path):
        code, _, err = celltrain("resume", str(tmp_path))
        assert code == 4
        assert "is not a run folder" in err


def test_the_live_display_draws_all_events(session, tmp_path):
    from rich.console import Console

    from napari_celltrain.cli.follow import LiveDisplay

    console = Console(force_terminal=True, width=100, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    settings = RunConfig(run_name="[red]run")
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"results": tmp_path})})
    display = LiveDisplay(console)
    last, _ = follow_module.follow(session.run(settings), display)
    assert last[Finished] == FINISHED
    display.show(Prepared(stage="reading [b]a.tif", done=1, total=2))
    console.print(display._picture())
    text = console.export_text()
    assert "Run [red]run" in text
    assert "loss 0.5000  Dice 0.9000, F1 0.8000  best 0.9000 (epoch 1)" in text
    assert "1/2" in text
    assert "reading [b]a.tif" in text
    console.file.close()


@pytest.mark.parametrize("width", [80, 60, 40, 12])
def test_the_live_numbers_are_one_line(width):
    from rich.console import Console

    from napari_celltrain.cli.follow import LiveDisplay

    console = Console(force_terminal=True, width=width, file=open(os.devnull, "w"))  # noqa: SIM115
    display = LiveDisplay(console)
    for event in (
        StepDone(epoch=1000, step=1, step_in_epoch=1, loss=0.5, learning_rate=1e-3, seconds=0.1),
        EpochDone(epoch=1000, step=1, train_loss=0.5, learning_rate=1e-3, seconds=3, remaining_seconds=750),
        Validated(epoch=1000, step=1, dice=0.9, f1=0.8, volumes=(), seconds=1, is_best=True),
    ):
        display.show(event)
    numbers = display._numbers()
    assert len(console.render_lines(numbers)) == 1
    assert "12 min 30 s left" in numbers.plain
    console.file.close()


@pytest.mark.parametrize(("steps", "done"), [(1, 0), (2, 1)])
def test_only_whole_epochs_count_as_done(session, tmp_path, steps, done):
    """An epoch that a stop cuts short ends, too."""
    from rich.console import Console

    from napari_celltrain.cli.follow import LiveDisplay

    console = Console(force_terminal=True, width=80, file=open(os.devnull, "w"))  # noqa: SIM115
    display = LiveDisplay(console)
    started = next(iter(session._tell(RunFolder(tmp_path), 1)))
    display.show(started.model_copy(update={"steps_per_epoch": 2}))
    display.show(StepDone(epoch=1, step=steps, step_in_epoch=steps, loss=0.5, learning_rate=1e-3, seconds=0.1))
    display.show(EpochDone(epoch=1, step=steps, train_loss=0.5, learning_rate=1e-3, seconds=3, remaining_seconds=0))
    assert display._bars.tasks[0].completed == done
    console.file.close()


def test_help_shows_what_the_fields_say():
    output = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    assert "Number of passes through the training data" in output
    assert "from 1 to 100000; default: 60" in output
    assert "--whole-images" in output
