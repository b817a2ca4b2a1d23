"""Choosing a model: recent ones, browsed ones, and those that cannot be read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from qtpy.QtCore import Qt

from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import RunConfig
from napari_celltrain.widgets.forms.path_edit import remember_path
from napari_celltrain.widgets.preferences import Preferences
from napari_celltrain.widgets.segment import model_panel
from napari_celltrain.widgets.segment.model_panel import ModelPanel
from segment_support import wait
from tiny_models import write_tiny_model


@pytest.fixture
def panel(qtbot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelPanel:
    monkeypatch.setattr(model_panel, "preferences", lambda: Preferences(results=str(tmp_path / "results")))
    panel = ModelPanel()
    qtbot.addWidget(panel)
    return panel


def look(qtbot, panel: ModelPanel) -> list[str]:
    panel.look()
    wait(qtbot, lambda: not panel._finder.is_busy)
    return [panel.recent.itemText(n) for n in range(1, panel.recent.count())]


def test_recent_runs_are_offered_with_their_scores(qtbot, panel: ModelPanel, tmp_path: Path) -> None:
    assert look(qtbot, panel) == []
    assert not panel.recent.isEnabled()
    first = write_tiny_model(tmp_path / "results", "2026-11-22_1530_unet")
    elsewhere = write_tiny_model(tmp_path / "other", "elsewhere")
    remember_path("data.results", tmp_path / "other")
    RunFolder.create(tmp_path / "results", "without-model", "unet").write_config(RunConfig())
    (write_tiny_model(tmp_path / "results", "broken") / "model" / "model.yaml").write_text("network: [")
    names = look(qtbot, panel)
    assert sorted(name.split()[0] for name in names) == [first.name, elsewhere.name]
    assert all("Dice 0.8750, F1 0.7500" in name for name in names)
    index = next(n for n in range(1, 3) if panel.recent.itemData(n) == str(first))
    panel.recent.setCurrentIndex(index)
    panel.recent.activated.emit(index)
    wait(qtbot, lambda: panel.card is not None)
    assert panel.path.value() == first
    assert panel.name == first.name


def test_the_facts_of_a_model_are_shown(qtbot, panel: ModelPanel, tmp_path: Path) -> None:
    panel.path.setValue(write_tiny_model(tmp_path, "run") / "model" / "model.yaml")
    wait(qtbot, lambda: panel.card is not None)
    text = "\n".join(panel.facts.texts.values())
    for fact in ("U-Net", "4 volumes", "Dice 0.8750", "1 × 0.5 × 0.5 µm", "learned borders", "threshold 0.5"):
        assert fact in text
    assert panel.name == "run"
    panel.path.setValue(None)
    assert panel.card is None
    assert panel.facts.isHidden()


def break_model(run: Path, how: str) -> Path:
    card = run / "model" / "model.yaml"
    if how == "no model":
        card.unlink()
    elif how == "no yaml":
        card.write_text("network: [")
    elif how == "other fields":
        card.write_text("a: 1")
    elif how == "nothing there":
        return run / "gone"
    elif how == "truncated zip":
        path = run.with_suffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(card, "model.yaml")
            archive.write(card.with_name("model.safetensors"), "model.safetensors")
        path.write_bytes(path.read_bytes()[:1000])
        return path
    return run


@pytest.mark.parametrize("how", ["no model", "no yaml", "other fields", "nothing there", "truncated zip"])
def test_what_cannot_be_read_gets_one_sentence(qtbot, panel: ModelPanel, tmp_path: Path, how: str) -> None:
    path = break_model(write_tiny_model(tmp_path, "run"), how)
    panel.path.setValue(path)
    wait(qtbot, lambda: not panel._reader.is_busy)
    assert panel.card is None
    assert panel.path.problem
    assert panel.message.text() == panel.path.problem
    assert "Traceback" not in panel.message.text()
    assert panel.path.problem
    panel.path.setValue(write_tiny_model(tmp_path, "sound"))
    wait(qtbot, lambda: panel.card is not None)
    assert panel.message.text() == ""
    assert not panel.path.problem


def test_names_are_shown_as_they_are(qtbot, panel: ModelPanel, tmp_path: Path) -> None:
    panel.path.setValue(tmp_path / "<b>gone</b>")
    wait(qtbot, lambda: not panel._reader.is_busy)
    assert "<b>gone</b>" in panel.message.text()
    assert panel.message.textFormat() == Qt.TextFormat.PlainText
