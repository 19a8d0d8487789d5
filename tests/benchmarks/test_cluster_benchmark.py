import pytest

from benchmarks import cluster
from benchmarks.table import cluster_table


@pytest.mark.slow  # Ray takes ten seconds to start
def test_a_killed_worker_changes_no_file() -> None:
    (row,) = cluster.run(100)
    assert (row["images"], row["files"], row["p50"]) == (100, 200, 0)
    assert cluster_table([row]).splitlines()[-1].startswith("| 100 | 48x64 | 200 | 1 | 0 | ")
