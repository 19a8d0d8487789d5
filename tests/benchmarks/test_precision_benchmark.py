"""The benchmark of precision compares what it says."""

from benchmarks.precision import DTYPES, pictures, predictions


def test_rows_of_pictures_in_every_precision() -> None:
    rows = pictures(size=32, count=2, steps=2)
    assert [one["dtype"] for one in rows] == [dtype for dtype in DTYPES for _ in range(4)]
    itself = [one for one in rows if one["dtype"] == DTYPES[0] and one["peer"].startswith(DTYPES[0])]
    assert [one["p80"] for one in itself] == [0, 0]
    assert all(one["p50"] > 0 for one in rows if one["dtype"] == "bfloat16" and one["peer"].startswith(DTYPES[0]))


def test_rows_of_predictions() -> None:
    rows = predictions(size=(32, 64), count=2)
    assert [(one["provider"], one["dtype"], one["unit"]) for one in rows] == [
        (f"tiny+{head}", dtype, unit)
        for head in ("linear", "mask2former")
        for dtype in ("float32", "bfloat16")
        for unit in ("1e-6", "%")
    ]
    assert all(0 <= one["p80"] <= (1e6 if one["unit"] == "1e-6" else 100) for one in rows)
