"""The history of a run, from its events: the one source of every table and curve; and the curves.

The picture (training loss above, validation scores below) is the same in the file and in the window. Only matplotlib's
object interface is used: pyplot and its global state belong to the program around us.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celltrain.values.events import EpochDone, Event, Failed, Finished, Saved, Started, Validated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch; ``train_loss`` and the two after it are None where it was cut short by a stop,
    ``dice`` where it had no validation."""

    epoch: int
    step: int
    train_loss: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    dice: float | None = None
    f1: float | None = None


@dataclass(frozen=True, slots=True)
class History:
    """The epochs that count, in order; those that a resumed run did over again are there once."""

    rows: tuple[EpochRow, ...] = ()
    started: Started | None = None
    best: Validated | None = None
    finished: Finished | None = None
    failed: Failed | None = None

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(row.epoch, row.train_loss) for row in self.rows if row.train_loss is not None]

    @property
    def dices(self) -> list[tuple[int, float]]:
        return [(row.epoch, row.dice) for row in self.rows if row.dice is not None]

    @property
    def f1s(self) -> list[tuple[int, float]]:
        return [(row.epoch, row.f1) for row in self.rows if row.f1 is not None]


class HistoryBuilder:
    """The history of ``events``, and of those that are added later."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._rows: dict[int, EpochRow] = {}
        self._best: Validated | None = None
        self._saved_best: Validated | None = None  # the best at the time of the last saved state
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._failed: Failed | None = None
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, EpochDone):
            self._rows[event.epoch] = replace(
                self._row(event.epoch, event.step),
                step=event.step,
                train_loss=event.train_loss,
                learning_rate=event.learning_rate,
                seconds=event.seconds,
            )
        elif isinstance(event, Validated):
            self._rows[event.epoch] = replace(self._row(event.epoch, event.step), dice=event.dice, f1=event.f1)
            # Not the highest Dice, but what the run itself took for the best: those weights are what it saved.
            self._best = event if event.is_best else self._best
        elif isinstance(event, Saved):
            self._saved_best = self._best if event.what == "last" else self._saved_best
        elif isinstance(event, Finished):
            self._finished = event
        elif isinstance(event, Failed):
            self._failed = event

    def history(self) -> History:
        rows = tuple(row for _, row in sorted(self._rows.items()))
        return History(rows, self._started, self._best, self._finished, self._failed)

    def row(self, epoch: int) -> EpochRow | None:
        return self._rows.get(epoch)

    def _row(self, epoch: int, step: int) -> EpochRow:
        return self._rows.get(epoch) or EpochRow(epoch, step)

    def _start(self, started: Started) -> None:
        """A resumed run does everything from its first epoch on again, whatever was written before the kill."""
        first = started.first_epoch
        self._rows = {epoch: row for epoch, row in self._rows.items() if epoch < first}
        # A run that was stopped at once has validated, and saved, in the middle of its first epoch to come.
        if self._best is not None and self._best.epoch >= first:
            self._best = self._saved_best
        self._started, self._finished, self._failed = started, None, None


# --- curves ---------------------------------------------------------------------------------------------------

MAX_POINTS = 1000
"""Longer curves are thinned out: more points than a picture has columns only take time."""
_FEW_POINTS = 60


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a picture, as matplotlib takes them."""

    background: str
    text: str
    grid: str
    loss: str
    dice: str
    f1: str


# The curves: Okabe and Ito (2008), told apart by all kinds of colour vision, and by their lightness in print.
ON_WHITE = Palette("white", "#333333", "#E4E4E4", "#0072B2", "#D55E00", "#009E73")


def save_plot(history: History, path: Path) -> None:
    """Draw to ``path`` in the format of its suffix (PNG or SVG)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    Curves(figure, ON_WHITE).show(history)
    figure.savefig(path)


class Curves:
    """The curves in a figure: :meth:`show` moves them, which is much quicker than to draw them again.

    ``side_by_side`` puts the scores beside the loss, for a low and wide place.
    """

    def __init__(self, figure: Figure, palette: Palette, side_by_side: bool = False) -> None:
        from matplotlib.ticker import MaxNLocator

        self._figure = figure
        if side_by_side:
            self._above, self._below = figure.subplots(1, 2)
        else:
            self._above, self._below = figure.subplots(2, 1, sharex=True)
            figure.align_ylabels([self._above, self._below])
        self._loss = _line(self._above, "-", "", "training loss")
        self._dice = _line(self._below, "-", "o", "Dice")
        self._f1 = _line(self._below, "--", "s", "F1 (IoU 0.5)")
        self._best = _line(self._below, "", "o", "best")
        self._best.set(markersize=10, fillstyle="none", markeredgewidth=1.6)
        self._best_epoch = self._below.axvline(1, linewidth=0.8, linestyle=":")
        self._title = figure.suptitle("", fontsize=10 if side_by_side else 12, fontweight="bold", parse_math=False)
        self._subtitle = self._above.set_title("", fontsize=9, loc="left", parse_math=False)
        self._above.set_ylabel("Training loss")
        self._below.set_ylabel("Validation score")
        self._below.set_ylim(-0.03, 1.03)
        self._below.set_xlabel("Epoch")
        if side_by_side:
            self._above.set_xlabel("Epoch")
        for axes in (self._above, self._below):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=9)
            axes.spines[["top", "right"]].set_visible(False)
        self._history = History()
        self.recolor(palette)

    def recolor(self, palette: Palette) -> None:
        self._palette = palette
        self._figure.set_facecolor(palette.background)
        for text in (self._title, self._subtitle):
            text.set_color(palette.text)
        for axes in (self._above, self._below):
            axes.set_facecolor(palette.background)
            axes.tick_params(colors=palette.text)
            axes.grid(True, color=palette.grid, linewidth=0.7)
            axes.xaxis.label.set_color(palette.text)
            axes.yaxis.label.set_color(palette.text)
            axes.spines[:].set_edgecolor(palette.text)
        self._loss.set_color(palette.loss)
        self._f1.set_color(palette.f1)
        for line in (self._dice, self._best, self._best_epoch):
            line.set_color(palette.dice)
        self.show(self._history)

    def show(self, history: History) -> None:
        self._history = history
        _move(self._loss, history.losses, "o", 3.5)
        _move(self._dice, history.dices, "o", 4)
        _move(self._f1, history.f1s, "s", 4)
        self._mark_best(history)
        last = max((row.epoch for row in history.rows), default=1)
        first = 0.5 if not history.rows or history.rows[0].epoch > 0 else -0.5
        for axes in (self._above, self._below):
            axes.set_xlim(first, max(last, 2) + 0.5)
        self._above.relim(visible_only=True)
        self._above.autoscale_view(scalex=False)
        started = history.started
        self._title.set_text("" if started is None else started.run)
        self._subtitle.set_text("" if started is None else f"{started.model}, {started.loss}, {started.device}")

    def _mark_best(self, history: History) -> None:
        best = history.best
        for artist in (self._best, self._best_epoch):
            artist.set_visible(best is not None)
        if best is not None:
            self._best.set_data([best.epoch], [best.dice])
            self._best.set_label(f"best {best.dice:.3f} (epoch {best.epoch})")
            self._best_epoch.set_xdata([best.epoch, best.epoch])
        shown = [line for line in (self._dice, self._f1, self._best) if line.get_visible()]
        if shown:
            # above the axes: inside, it would lie over one curve or the other as they grow
            self._below.legend(
                handles=shown,
                loc="lower left",
                bbox_to_anchor=(0.0, 1.0),
                borderaxespad=0.2,
                ncols=len(shown),
                columnspacing=1.2,
                frameon=False,
                fontsize=9,
                labelcolor=self._palette.text,
            )
        elif (legend := self._below.get_legend()) is not None:
            legend.remove()


def _line(axes: Axes, style: str, marker: str, label: str) -> Line2D:
    [line] = axes.plot([], [], linestyle=style, marker=marker, linewidth=1.6, label=label)
    return line


def _move(line: Line2D, points: list[tuple[int, float]], marker: str, size: float) -> None:
    """Single points need a marker to be seen at all; hundreds of them would hide the curve."""
    step = -(-len(points) // MAX_POINTS) if points else 1
    thinned = points[::step] if step == 1 or (len(points) - 1) % step == 0 else [*points[::step], points[-1]]
    line.set_data([epoch for epoch, _ in thinned], [value for _, value in thinned])
    line.set_marker(marker if len(points) <= _FEW_POINTS else "")
    line.set_markersize(size)
    line.set_visible(bool(points))
