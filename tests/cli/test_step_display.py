"""What a run shows of itself on a terminal."""

import io
import re

from rich.console import Console
from rich.progress import Progress

from clouds.cli import model_commands


def test_the_step_display_has_one_bar_per_phase() -> None:
    with Progress(disable=True) as shown:
        on_step = model_commands.step_display(shown)
        on_step("warmup", 1, 2, {"loss": 2.0})
        on_step("warmup", 2, 2, {"loss": 1.5})
        on_step("joint", 1, 3, {"loss": 1.0})
        bars = [(task.description, task.completed, task.total) for task in shown.tasks]
    assert bars == [("warmup, loss 1.500", 2, 2), ("joint, loss 1.000", 1, 3)]


def test_the_step_display_shows_what_is_asked_during_a_run() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with Progress(console=console, auto_refresh=False, get_time=iter(range(0, 1000, 10)).__next__) as shown:
        on_step = model_commands.step_display(shown)
        on_step("joint", 1, 9, {"loss": 2.0, "images_per_second": 12.0, "memory_gib": 3.25})
        on_step("joint", 2, 9, {"loss": 1.5, "images_per_second": 12.5, "memory_gib": 3.5, "miou": 41.25})
        on_step("joint", 3, 9, {"loss": 1.0, "images_per_second": 13.0, "memory_gib": 3.5})
        (task,) = shown.tasks
        drawn = "".join(segment.text for segment in console.render(shown))
    assert task.description == "joint, loss 1.000, mIoU 41.2 %, 13.0 images/s, 3.5 GiB"  # the last mIoU stays
    assert task.time_remaining is not None
    assert "mIoU 41.2 %" in drawn
    assert re.search(r"0:0\d:\d\d", drawn), drawn
