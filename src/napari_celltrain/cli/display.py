"""How events are shown: as a live picture on a terminal, as lines in a file, or as JSON for a program."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.text import Text

from napari_celltrain.cli.terminal import console, is_main_process, report_at_once, text, write_line
from napari_celltrain.values.events import (
    EpochDone,
    Event,
    Failed,
    Finished,
    Prepared,
    Started,
    StepDone,
    Validated,
    ValidationProgressed,
    Warned,
    to_json,
)
from napari_celltrain.values.text import describe, duration, printable, scores

if TYPE_CHECKING:
    from rich.progress import TaskID

# Few enough that drawing takes no noticeable time from training.
_REFRESHES_PER_SECOND = 4
_STYLES: dict[type, str] = {Warned: "yellow", Failed: "bold red", Finished: "bold green", Started: "bold"}
_SILENT = (StepDone, EpochDone, Prepared)  # they move the bars instead


class Display:
    """Shows events between ``with`` and its end. This one shows none: of several processes that train together, the
    first shows them all."""

    for_programs = False
    """Whether a program reads it, which then wants to read of failures as events too."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None

    def show(self, event: Event) -> None:
        return None

    def notice(self, message: str) -> None:
        """Answer a key press; called from a signal handler, so it must not write to buffered streams."""
        report_at_once(message)


class PlainDisplay(Display):
    """A line for each epoch, validation and message, for files and terminals that cannot move the cursor."""

    def show(self, event: Event) -> None:
        line = None if isinstance(event, StepDone) else describe(event)
        if line is not None:
            write_line(printable(line))


class JsonDisplay(Display):
    """One event a line, each with its time: also those from before there is a folder, whose writer gives them one."""

    for_programs = True

    def show(self, event: Event) -> None:
        write_line(to_json(event if event.time else event.model_copy(update={"time": time.time()})))


class LiveDisplay(Display):
    """Two bars, the latest numbers, and above them what is worth keeping; drawn at its own pace."""

    def __init__(self, console: Console) -> None:
        # the help of the command line needs neither
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<11}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            console=console,
        )
        self._epochs: TaskID | None = None
        self._steps = self._bars.add_task("preparing", total=None)
        self._steps_per_epoch: int | None = None
        self._latest: Validated | None = None
        self._best: Validated | None = None
        self._loss: float | None = None
        self._step_in_epoch = 0
        self._end: float | None = None
        self._notice = ""
        self._live = Live(
            get_renderable=self._picture,
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        self._move(event)
        line = None if isinstance(event, _SILENT) else describe(event)
        if line is not None:
            self._console.print(text(line, _STYLES.get(type(event), "")))

    def notice(self, message: str) -> None:
        self._notice = message  # drawn by the display's own thread a moment later

    def _move(self, event: Event) -> None:
        match event:
            case Prepared():
                self._bars.update(
                    self._steps,
                    description=printable(event.stage)[:36],
                    completed=event.done,
                    total=event.total or None,
                )
            case Started():  # more than once where a run is resumed while it is watched
                self._steps_per_epoch = event.steps_per_epoch
                if self._epochs is None:
                    self._bars.remove_task(self._steps)
                    self._epochs = self._bars.add_task("epoch", total=event.epochs)
                    self._steps = self._bars.add_task("step", total=event.steps_per_epoch)
                self._bars.update(self._epochs, completed=event.first_epoch - 1, total=event.epochs)
            case StepDone():
                self._loss = event.loss
                self._step_in_epoch = event.step_in_epoch
                total = self._steps_per_epoch
                self._bars.update(self._steps, description="step", completed=event.step_in_epoch, total=total)
            case EpochDone():
                self._end = (event.time or time.time()) + event.remaining_seconds
                cut_short = self._step_in_epoch != self._steps_per_epoch
                if self._epochs is not None and not cut_short:
                    self._bars.update(self._epochs, completed=event.epoch)
            case ValidationProgressed():
                self._bars.update(self._steps, description="validation", completed=event.done, total=event.total)
            case Validated():
                self._latest = event
                self._best = event if event.is_best else self._best

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = [self._bars.get_renderable(), self._numbers()]
        if self._notice:
            parts.append(text(self._notice, "bold yellow"))
        return Group(*parts)

    def _numbers(self) -> Text:
        """Loss, Dice, best and remaining time, as far as they are known and fit one line."""
        latest, best = self._latest, self._best
        loss = f"loss {self._loss:.4f}" if self._loss is not None else ""
        score = scores(latest.dice, latest.f1) if latest is not None else ""
        highest = f"best {best.dice:.4f} (epoch {best.epoch})" if best is not None else ""
        left = f"{duration(max(0.0, self._end - time.time()))} left" if self._end is not None else ""
        line = Text()
        for items in ((loss, score, highest, left), (score, highest, left), (score, left)):
            line = text("  ".join(filter(None, items)), "cyan")
            if line.cell_len <= self._console.width:
                break
        line.no_wrap, line.overflow = True, "ellipsis"
        return line


def make_display(json: bool) -> Display:
    """The display that suits the reader of standard output."""
    if not is_main_process():
        return Display()
    if json:
        return JsonDisplay()
    output = console()
    return LiveDisplay(output) if output.is_terminal and not output.is_dumb_terminal else PlainDisplay()
