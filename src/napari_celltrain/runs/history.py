"""The history of a run, from its events: the one source of every table and curve; and the curves.

The picture (training loss above, validation scores below) is the same in the file and in the window. Only matplotlib's
object interface is used: pyplot and its global state belong to the program around us.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
    """What the events so far come to; never changed, so that a thread may draw it."""

    epochs: Mapping[int, EpochRow] = field(default_factory=dict)
    """The epochs that count, by number; those that a resumed run did over again are there once."""
    started: Started | None = None
    best: Validated | None = None
    """Not of the highest Dice, but what the run itself took for the best: those weights are what it saved."""
    finished: Finished | None = None
    failed: Failed | None = None
    saved_best: Validated | None = None
    """The best at the time of the last saved state."""

    def after(self, event: Event) -> History:
        """The history with one more event."""
        match event:
            case Started():
                # a resumed run does everything from its first epoch on again, whatever was written before the kill
                epochs = {epoch: row for epoch, row in self.epochs.items() if epoch < event.first_epoch}
                # a run that was stopped at once has validated, and saved, in the middle of its first epoch to come
                is_kept = self.best is None or self.best.epoch < event.first_epoch
                return History(epochs, event, self.best if is_kept else self.saved_best, saved_best=self.saved_best)
            case EpochDone():
                return self._with(event, "train_loss", "learning_rate", "seconds")
            case Validated():
                history = self._with(event, "dice", "f1")
                return replace(history, best=event) if event.is_best else history
            case Saved(what="last"):
                return replace(self, saved_best=self.best)
            case Finished():
                return replace(self, finished=event)
            case Failed():
                return replace(self, failed=event)
        return self

    def _with(self, event: EpochDone | Validated, *columns: str) -> History:
        row = self.epochs.get(event.epoch) or EpochRow(event.epoch, event.step)
        row = replace(row, step=event.step, **{name: getattr(event, name) for name in columns})
        return replace(self, epochs={**self.epochs, event.epoch: row})

    @property
    def rows(self) -> tuple[EpochRow, ...]:
        """The epochs in order."""
        return tuple(row for _, row in sorted(self.epochs.items()))

    def points(self, column: Literal["train_loss", "dice", "f1"]) -> list[tuple[int, float]]:
        """The epochs that have a value in this column, and the values."""
        return [(row.epoch, value) for row in self.rows if (value := getattr(row, column)) is not None]


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

        if side_by_side:
            self._above, self._below = figure.subplots(1, 2)
        else:
            self._above, self._below = figure.subplots(2, 1, sharex=True)
            figure.align_ylabels([self._above, self._below])
        self._loss = _line(self._above, "-", "o", 3.5, palette.loss, "training loss")
        self._dice = _line(self._below, "-", "o", 4, palette.dice, "Dice")
        self._f1 = _line(self._below, "--", "s", 4, palette.f1, "F1 (IoU 0.5)")
        self._best = _line(self._below, "", "o", 10, palette.dice, "best")
        self._best.set(fillstyle="none", markeredgewidth=1.6)
        self._best_epoch = self._below.axvline(1, linewidth=0.8, linestyle=":", color=palette.dice)
        self._title = figure.suptitle(
            "", fontsize=10 if side_by_side else 12, fontweight="bold", color=palette.text, parse_math=False
        )
        self._subtitle = self._above.set_title("", fontsize=9, loc="left", color=palette.text, parse_math=False)
        self._above.set_ylabel("Training loss")
        self._below.set_ylabel("Validation score")
        self._below.set_ylim(-0.03, 1.03)
        figure.set_facecolor(palette.background)
        for axes in (self._above, self._below):
            if side_by_side or axes is self._below:
                axes.set_xlabel("Epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.set_axisbelow(True)
            axes.set_facecolor(palette.background)
            axes.tick_params(labelsize=9, colors=palette.text)
            axes.grid(True, color=palette.grid, linewidth=0.7)
            axes.xaxis.label.set_color(palette.text)
            axes.yaxis.label.set_color(palette.text)
            axes.spines[:].set_edgecolor(palette.text)
            axes.spines[["top", "right"]].set_visible(False)

    def show(self, history: History) -> None:
        _move(self._loss, history.points("train_loss"), "o")
        _move(self._dice, history.points("dice"), "o")
        _move(self._f1, history.points("f1"), "s")
        best = history.best
        for artist in (self._best, self._best_epoch):
            artist.set_visible(best is not None)
        if best is not None:
            self._best.set_data([best.epoch], [best.dice])
            self._best.set_label(f"best {best.dice:.3f} (epoch {best.epoch})")
            self._best_epoch.set_xdata([best.epoch, best.epoch])
        rows, started = history.rows, history.started
        first = 0.5 if not rows or rows[0].epoch > 0 else -0.5
        last = rows[-1].epoch if rows else 1
        for axes in (self._above, self._below):
            axes.set_xlim(first, max(last, 2) + 0.5)
        self._above.relim(visible_only=True)
        self._above.autoscale_view(scalex=False)
        self._title.set_text("" if started is None else started.run)
        self._subtitle.set_text("" if started is None else f"{started.model}, {started.loss}, {started.device}")
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
                labelcolor=self._title.get_color(),
            )
        elif (legend := self._below.get_legend()) is not None:
            legend.remove()


def _line(axes: Axes, style: str, marker: str, size: float, color: str, label: str) -> Line2D:
    [line] = axes.plot([], [], linestyle=style, marker=marker, markersize=size, color=color, linewidth=1.6, label=label)
    return line


def _move(line: Line2D, points: list[tuple[int, float]], marker: str) -> None:
    """Single points need a marker to be seen at all; hundreds of them would hide the curve."""
    thinned = points[:: max(1, -(-len(points) // MAX_POINTS))]
    if thinned[-1:] != points[-1:]:
        thinned.append(points[-1])
    line.set_data([epoch for epoch, _ in thinned], [value for _, value in thinned])
    line.set_marker(marker if len(points) <= _FEW_POINTS else "")
    line.set_visible(bool(points))
