"""The benchmark of precision compares what it says."""

from benchmarks.precision import DTYPES, run


def test_rows_of_every_precision() -> None:
    rows = run(size=32, pictures=2, steps=2)
    assert [one["dtype"] for one in rows] == [dtype for dtype in DTYPES for _ in range(4)]
    itself = [one for one in rows if one["dtype"] == DTYPES[0] and one["peer"].startswith(DTYPES[0])]
    assert [one["p80"] for one in itself] == [0, 0]
    assert all(one["p50"] > 0 for one in rows if one["dtype"] == "bfloat16" and one["peer"].startswith(DTYPES[0]))
