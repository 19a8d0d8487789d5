from benchmarks import predict


def test_batches_are_measured_beside_one_by_one() -> None:
    rows = predict.batches("tiny", (32, 64), head="linear", images=3, repeats=2)
    ways = [predict.ALONE, *(f"batches of {size}" for size in predict.BATCHES)]
    assert [one["metric"] for one in rows] == [
        f"{metric}, {way}" for way in ways for metric in ("per image", "times faster")
    ]
    by_metric = {one["metric"]: one for one in rows}
    assert by_metric[f"times faster, {predict.ALONE}"]["p50"] == 1
    assert by_metric["per image, batches of 8"]["peak_memory_mb"] > by_metric["per image, one by one"]["peak_memory_mb"]
    assert {one["repeats"] for one in rows} == {2}
