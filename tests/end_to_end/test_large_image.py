"""A picture of 100 million pixels is segmented in windows, within 3 GB of memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROGRAM = """
import sys
import clouds
from clouds.core.system.memory import peak_memory

pipeline = clouds.compose(backbone="tiny", head="linear", device="cpu")
pipeline.trained = True
labels = pipeline.predict(sys.argv[1]).labels
assert labels.shape == (10000, 10000), labels.shape
print(peak_memory())
"""


@pytest.mark.slow
def test_ten_thousand_by_ten_thousand_pixels_fit_in_three_gigabytes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(pixels).resize((10_000, 10_000)).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 3e9
