"""The bar in the activity dock does not have the window drawn all the time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from napari.resources import LOADING_GIF_PATH
from qtpy.QtGui import QMovie
from qtpy.QtWidgets import QLabel, QMainWindow

from napari_celltrain.widgets.run.progress import Activity


@pytest.fixture
def movie(qtbot) -> Iterator[QMovie]:
    """A film in a status bar, as napari begins it with a bar."""
    window = QMainWindow()
    qtbot.addWidget(window)
    label = QLabel()
    film = QMovie(LOADING_GIF_PATH, parent=label)
    label.setMovie(film)
    window.statusBar().addPermanentWidget(label)
    film.start()
    yield film
    film.stop()


def test_the_film_goes_on_with_the_bar_alone(qtbot, movie: QMovie) -> None:
    activity = Activity()
    qtbot.waitUntil(lambda: movie.state() == QMovie.MovieState.Paused)
    before = movie.currentFrameNumber()
    activity.show(1, 10, "Epoch 1 of 10")
    qtbot.waitUntil(lambda: movie.currentFrameNumber() != before, timeout=5_000)
    assert movie.state() == QMovie.MovieState.Paused
    activity.close()


def test_the_film_of_other_bars_goes_on_afterwards(qtbot, movie: QMovie) -> None:
    activity = Activity()
    qtbot.waitUntil(lambda: movie.state() == QMovie.MovieState.Paused)
    activity.close()
    assert movie.state() == QMovie.MovieState.Running
