import pytest

from benchmarks import cluster


@pytest.mark.slow  # Ray takes ten seconds to start
def test_a_killed_worker_changes_no_file() -> None:
    (row,) = cluster.run(100)
    assert (row["images"], row["files"], row["p50"]) == (100, 200, 0)
