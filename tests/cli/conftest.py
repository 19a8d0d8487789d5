from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Outcome, Run

from clouds.cli.app import main
from clouds.core.system.images import write_png


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run_main(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_main


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline that counts as trained."""
    import clouds

    tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    pipeline = clouds.compose(backbone=tiny, head={"name": "linear", "width": 16}, device="cpu")
    pipeline.trained = True
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    pipeline.save(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A dataset of two labelled pictures, split "val"."""
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_png(folder / "images" / "val" / f"{name}.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
        labels = rng.integers(0, 3, (40, 50), np.uint8)
        labels[0] = 255
        write_png(folder / "labels" / "val" / f"{name}.png", labels)
    return folder
