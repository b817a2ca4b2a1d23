"""The choice of the numeric format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from napari_celltrain.engine import precision
from napari_celltrain.engine.patches import Batch
from napari_celltrain.engine.precision import (
    NumericFormat,
    Probe,
    Trial,
    cache_file,
    candidates,
    choose_format,
    probe_formats,
    usual_format,
)
from napari_celltrain.values.config import TrainingConfig

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
PLAIN, LAST = NumericFormat(), NumericFormat("float32", "channels_last")
HALF = NumericFormat("bfloat16", "contiguous")


class Net(nn.Module):
    """A convolution; ``wrong`` is what it does under autocast."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv3d(1, 1, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.wrong = wrong

    def forward(self, image: Tensor) -> Tensor:
        logits = self.dropout(self.layer(image))
        if not torch.is_autocast_enabled("cpu"):
            return logits
        match self.wrong:
            case "logits":
                return logits.float() + 1.0
            case "gradient":
                return logits.float().detach() - (logits - logits.detach())
            case "infinite":
                return logits.float() / torch.zeros(())
            case "missing":
                raise RuntimeError("not implemented for bfloat16\nand more")
        return logits


def loss_function(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0].float(), target.float())


def batch() -> Batch:
    image = torch.randn((2, 1, 4, 6, 6), generator=torch.Generator().manual_seed(1))
    return Batch(image, (image[:, 0] > 0).to(torch.uint8))


def probe(wrong: str, layout: Any = "contiguous") -> Probe:
    config = TrainingConfig(memory_layout=layout)
    return probe_formats(Net(wrong), loss_function, batch(), config, CPU, repeats=1, budget_seconds=1e9)


def test_what_is_usual_depends_on_the_device() -> None:
    automatic = TrainingConfig()
    assert usual_format(automatic, CPU) == LAST
    assert usual_format(automatic, CUDA) == PLAIN
    fixed = TrainingConfig(precision="bfloat16", memory_layout="contiguous")
    assert usual_format(fixed, CPU) == NumericFormat("bfloat16", "contiguous")


def test_candidates_begin_with_the_usual_and_keep_what_was_set() -> None:
    assert len(candidates(TrainingConfig(), CPU)) == 4
    assert candidates(TrainingConfig(), CPU)[0] == LAST
    assert {found.precision for found in candidates(TrainingConfig(), MPS)} == {"float32"}
    assert candidates(TrainingConfig(precision="float32", memory_layout="contiguous"), CPU) == [PLAIN]


@pytest.mark.parametrize(
    ("wrong", "note"),
    [
        ("logits", "probabilities differ"),
        ("gradient", "the gradient points elsewhere"),
        ("infinite", "not finite"),
        ("missing", "failed: not implemented for bfloat16"),
    ],
)
def test_a_format_that_disagrees_is_refused(wrong: str, note: str) -> None:
    found = probe(wrong)
    assert found.chosen == PLAIN
    usual, half = found.trials
    assert usual.seconds is not None
    assert (half.format, half.seconds) == (HALF, None)
    assert note in half.note
    assert note in found.table()


def test_a_format_that_agrees_may_be_chosen_although_dropout_is_random() -> None:
    assert [trial.note for trial in probe("", "auto").trials] == [""] * 4


def test_a_single_candidate_needs_no_trial() -> None:
    config = TrainingConfig(precision="float32", memory_layout="contiguous")
    assert probe_formats(Net("infinite"), loss_function, batch(), config, CPU) == Probe(PLAIN, ())


def test_trials_leave_network_and_random_numbers_as_they_were() -> None:
    network = Net()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    probe_formats(network, loss_function, batch(), TrainingConfig(), CPU, repeats=1)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_out_of_time_the_rest_is_not_tried() -> None:
    config = TrainingConfig(memory_layout="contiguous")
    found = probe_formats(Net(), loss_function, batch(), config, CPU, repeats=1, budget_seconds=0.0)
    assert found.chosen == PLAIN
    assert "time was up" in found.trials[1].note


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((1.0, 0.5), HALF),
        ((1.0, 0.9), PLAIN),  # no more than noise
        ((1.0, None), PLAIN),
        ((None, 2.0), HALF),
        ((None, None), PLAIN),
    ],
)
def test_another_format_must_be_clearly_faster(
    seconds: tuple[float | None, float | None], chosen: NumericFormat
) -> None:
    assert precision._choose([Trial(PLAIN, seconds[0], ""), Trial(HALF, seconds[1], "")]) == chosen


# --- remembered choices ----------------------------------------------------------------------------------


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CELLTRAIN_CACHE_DIR", str(tmp_path / "cache"))
    return cache_file()


def choose(monkeypatch: pytest.MonkeyPatch, found: NumericFormat, **settings: Any) -> Probe:
    """With trials that would now find ``found``."""
    trials = (Trial(PLAIN, 1.0, ""), Trial(HALF, None, "disagrees"))
    monkeypatch.setattr(precision, "probe_formats", lambda *_: Probe(found, trials))
    return choose_format(Net(), loss_function, batch(), TrainingConfig(**settings), CPU, "a network")


def test_an_equal_run_gets_the_format_that_was_found_first(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose(monkeypatch, PLAIN)
    assert not first.is_remembered
    again = choose(monkeypatch, LAST)
    assert again.is_remembered
    assert (again.chosen, again.trials, again.seconds_per_step) == (PLAIN, first.trials, 1.0)
    assert choose(monkeypatch, LAST, loss="dice").chosen == LAST, "another loss is another run"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"KEY": 3}',
        '{"KEY": {"precision": "evil", "layout": "contiguous"}}',
        '{"KEY": {"precision": "float32"}}',
    ],
)
def test_a_damaged_file_counts_as_empty(own_file: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    choose(monkeypatch, PLAIN)
    [key] = json.loads(own_file.read_text())
    own_file.write_text(content.replace("KEY", key))
    assert choose(monkeypatch, LAST).chosen == LAST
    assert choose(monkeypatch, PLAIN).chosen == LAST


def test_a_place_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CELLTRAIN_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert choose(monkeypatch, LAST).chosen == LAST


def test_only_the_newest_are_kept(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "MAX_REMEMBERED", 2)
    for loss in ("dice", "focal", "tversky"):
        choose(monkeypatch, PLAIN, loss=loss)
    assert len(json.loads(own_file.read_text())) == 2
    assert not choose(monkeypatch, PLAIN, loss="dice").is_remembered


def test_what_is_no_file_counts_as_empty(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, PLAIN)
    own_file.unlink()
    os.mkfifo(own_file)
    assert choose(monkeypatch, LAST).chosen == LAST
