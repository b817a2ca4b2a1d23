"""The field for paths: typed, dropped, browsed for, and remembered."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtTest import QSignalSpy
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_celltrain.widgets.forms import path_edit
from napari_celltrain.widgets.forms.path_edit import NUM_RECENT, PathEdit, recent_paths

pytestmark = pytest.mark.usefixtures("qapp")


@pytest.fixture
def edit(qtbot) -> PathEdit:
    widget = PathEdit("either", history="images")
    qtbot.addWidget(widget)
    return widget


def drop(widget: PathEdit, *paths: Path | str) -> bool:
    """Drag the paths onto the field and let go; whether it takes them."""
    mime = QMimeData()
    mime.setUrls([QUrl(path) if isinstance(path, str) else QUrl.fromLocalFile(str(path)) for path in paths])
    copy, left, none = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(QPoint(5, 5), copy, mime, left, none)
    enter.ignore()
    QApplication.sendEvent(widget, enter)
    if not enter.isAccepted():
        return False
    QApplication.sendEvent(widget, QDropEvent(QPointF(5, 5), copy, mime, left, none))
    return True


@pytest.mark.parametrize("path", [None, Path("r"), Path("/a/b c"), Path("/a/<img src=x>&.tif"), Path("/trailing ")])
def test_gives_back_what_was_set(edit: PathEdit, path: Path | None) -> None:
    edit.setValue(path)
    assert edit.value() == path


def test_tells_of_a_change_once(edit: PathEdit, qtbot, tmp_path: Path) -> None:
    spy = QSignalSpy(edit.valueChanged)
    edit.setValue(tmp_path)
    edit.setValue(tmp_path)
    assert len(spy) == 1


def test_typing_counts_at_once_and_is_told_at_its_end(edit: PathEdit, qtbot, tmp_path: Path) -> None:
    spy = QSignalSpy(edit.valueChanged)
    qtbot.keyClicks(edit.edit, str(tmp_path))
    assert edit.value() == tmp_path
    assert len(spy) == 0
    qtbot.keyClick(edit.edit, Qt.Key.Key_Return)
    assert len(spy) == 1


def test_pasted_paths_may_be_in_quotes_or_begin_at_home(edit: PathEdit, qtbot) -> None:
    edit.edit.setText('"/data/my images" ')
    assert edit.value() == Path("/data/my images")
    edit.edit.setText("~/images")
    assert edit.value() == Path.home() / "images"


def test_takes_a_dropped_folder(edit: PathEdit, tmp_path: Path) -> None:
    assert drop(edit, tmp_path)
    assert edit.value() == tmp_path


def test_several_dropped_files_mean_their_folder(edit: PathEdit, tmp_path: Path) -> None:
    files = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for file in files:
        file.touch()
    assert drop(edit, *files)
    assert edit.value() == tmp_path


def test_a_file_dropped_where_a_folder_is_wanted_means_its_folder(qtbot, tmp_path: Path) -> None:
    edit = PathEdit("folder")
    qtbot.addWidget(edit)
    (tmp_path / "a.tif").touch()
    assert drop(edit, tmp_path / "a.tif")
    assert edit.value() == tmp_path


def test_takes_no_web_address(edit: PathEdit) -> None:
    assert not drop(edit, "https://example.org/a.tif")
    assert edit.value() is None


def test_offers_the_recent_ones_to_all_fields_of_the_purpose(edit: PathEdit, qtbot, tmp_path: Path) -> None:
    folders = [tmp_path / f"folder & {number}" for number in range(NUM_RECENT + 2)]
    for folder in folders:
        folder.mkdir()
        drop(edit, folder)
    drop(edit, folders[-2])
    other = PathEdit("folder", history="images")
    qtbot.addWidget(other)
    assert recent_paths("images")[:3] == [folders[-2], folders[-1], folders[-3]]
    assert len(recent_paths("images")) == NUM_RECENT

    menu = other.recent_button.menu()
    menu.aboutToShow.emit()
    menu.triggered.emit(menu.actions()[1])
    assert other.value() == folders[-1]


def test_remembers_nothing_that_does_not_exist(edit: PathEdit, qtbot) -> None:
    qtbot.keyClicks(edit.edit, "/no/such/folder")
    qtbot.keyClick(edit.edit, Qt.Key.Key_Return)
    assert recent_paths("images") == []


def test_browses_from_the_nearest_folder_that_exists(edit: PathEdit, qtbot, tmp_path: Path, monkeypatch) -> None:
    asked = []

    def answer(parent: object, caption: str, start: str) -> str:
        asked.append(Path(start))
        return str(tmp_path)

    monkeypatch.setattr(QFileDialog, "getExistingDirectory", answer)
    edit.setValue(tmp_path / "gone" / "deeper")
    qtbot.mouseClick(edit.browse_button, Qt.MouseButton.LeftButton)
    assert asked == [tmp_path]
    assert edit.value() == tmp_path


def test_a_long_path_keeps_both_ends_in_sight(edit: PathEdit, qtbot) -> None:
    edit.setValue(Path("/data/a very long name of a folder/and another one of the same kind/images"))
    edit.resize(250, 30)
    edit.show()
    shown = edit.edit.elided()[0]
    assert shown.startswith("/data")
    assert shown.endswith("images")
    assert "…" in shown
    assert edit.grab().width() == 250  # painting it works


def test_names_are_shown_as_they_are(edit: PathEdit) -> None:
    edit.setToolTip("The images.")
    edit.set_problem("<b>holds</b> nothing")
    edit.setValue(Path("/data/<img src=x>"))
    assert "&lt;b&gt;" in edit.toolTip()
    assert "&lt;img src=x&gt;" in edit.toolTip()
    assert "The images." in edit.toolTip()
    assert edit.problem
    edit.set_problem(None)
    assert not edit.problem


def test_a_drive_that_does_not_answer_holds_nobody_up(monkeypatch, tmp_path: Path) -> None:
    answered = threading.Event()

    def hang(path: Path) -> bool:
        return answered.wait(60) if path.name == "gone" else True

    monkeypatch.setattr(path_edit, "PATIENCE", 0.05)
    try:
        assert path_edit.are_there([tmp_path / "gone", tmp_path / "here"], hang) == [False, True]
    finally:
        answered.set()
