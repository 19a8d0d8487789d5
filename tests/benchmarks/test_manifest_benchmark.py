import pytest

from benchmarks import manifest


@pytest.mark.slow  # 100,000 files
def test_deciding_what_is_missing_of_100_000_images_takes_less_than_500_mb() -> None:
    rows = manifest.run(100_000, repeats=1)
    (decision,) = [row["p50"] for row in rows if row["metric"] == "peak memory of the decision, 100000 images"]
    assert 0.01 < decision < 0.5  # gigabytes; 100,000 rows of less than 100 bytes each would not be rows
