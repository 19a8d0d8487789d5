from pathlib import Path

import pytest
from training_helpers import write_generated, write_source


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_source(tmp_path / "data")


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    return write_generated(tmp_path / "generated")
