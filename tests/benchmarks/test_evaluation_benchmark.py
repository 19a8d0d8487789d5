"""The rows of the evaluation benchmark, on pictures so small that their numbers mean nothing."""

from pathlib import Path

import numpy as np

import clouds
from benchmarks import evaluation
from benchmarks.table import evaluation_table

SMALL = evaluation.Load(backbones=("tiny",), size=(64, 96), images=2, rounds=2)


def test_the_rows_of_a_backbone() -> None:
    rows = {one["metric"]: one for one in evaluation.run(SMALL)}
    parts = {"reading", "counting confusion", "counting boundaries"}
    runs = {"evaluation", "model alone", "evaluation with calibration"}
    assert set(rows) == {*runs, "evaluation beyond the model", "calibration, times the evaluation", *parts}
    assert all(one["provider"] == "tiny+mask2former" and one["repeats"] == 2 for one in rows.values())
    assert all(rows[metric]["p20"] > 0 for metric in (*runs, *parts))
    lines = evaluation_table([*rows.values(), *rows.values()]).splitlines()
    assert len(lines) == 2 + len(rows)  # each measurement once
    assert lines[2].startswith("| cpu | tiny+mask2former | 64x96 | evaluation | ")


def test_the_model_alone_makes_the_labels_that_are_evaluated(tmp_path: Path) -> None:
    evaluation.write_files(tmp_path, SMALL)
    pipeline = clouds.compose(backbone="tiny", head="mask2former", device="cpu")
    pipeline.trained = True
    dataset = evaluation.open_dataset(f"folder:{tmp_path}", pipeline.labels)
    pictures = [dataset.read_image(index) for index in range(len(dataset))]
    answers = evaluation.segment_all(pipeline, pictures)
    assert len(answers) == 2
    for picture, answer in zip(pictures, answers, strict=True):
        assert np.array_equal(answer, pipeline.predict(picture).labels)
