from benchmarks import predict


def test_batches_are_measured_beside_one_by_one() -> None:
    rows = predict.batches("tiny", (32, 64), head="linear", images=3, repeats=2)
    assert [one["metric"] for one in rows] == [
        "per image, one by one",
        *(
            f"{metric}, batches of {size}"
            for size in (*predict.BATCHES, "8, 2 reading threads")
            for metric in ("per image", "times faster")
        ),
    ]
    by_metric = {one["metric"]: one for one in rows}
    assert by_metric["times faster, batches of 8"]["peer"] == predict.ALONE
    assert by_metric["per image, batches of 8"]["peak_memory_mb"] > by_metric["per image, one by one"]["peak_memory_mb"]
    assert {one["repeats"] for one in rows} == {2}
