"""Progress bars."""

import pytest

from clouds.core.system.progress import progress_bar


def test_names_in_a_bar_are_neither_markup_nor_orders_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal then
    with progress_bar() as bar:
        bar.add_task("evil\x1b]0;owned\x07[bold]town[/bold]:val", total=3)
    drawn = capsys.readouterr().err
    assert r"evil\x1b]0;owned\x07[bold]town[/bold]:val" in drawn
    assert "\x07" not in drawn
