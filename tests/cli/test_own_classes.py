"""Classes of one's own on the command line, and what commands say of data that they do not use or cannot measure."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SMALL_RECIPE, Run, assert_one_line
from PIL import Image

import clouds
from clouds import ConfigError
from clouds.core.system.images import write_png
from clouds.training.recipe import load_recipe

TOML = 'names = ["background", "lesion"]\nthings = ["lesion"]\n'


@pytest.fixture
def skin(tmp_path: Path) -> Path:
    """Masks of 0 and 255, and what they mean."""
    folder = tmp_path / "skin"
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_png(folder / "images" / "train" / f"{name}.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
        write_png(folder / "labels" / "train" / f"{name}.png", rng.choice(np.array([0, 255], np.uint8), (40, 50)))
    (folder / "dataset.toml").write_text('[labels.mapping]\n"0" = "background"\n"255" = "lesion"\n', encoding="utf-8")
    return folder


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


class TestCheckAndConvert:
    def test_a_list_with_doubles_is_refused(self, run: Run, skin: Path) -> None:
        assert_one_line(
            run("datasets", "check", f"folder:{skin}", "--labels", '["lesion", "lesion"]'),
            "names classes twice: lesion",
        )

    def test_a_number_of_classes(self, run: Run, skin: Path) -> None:
        (skin / "dataset.toml").write_text('[labels.mapping]\n"0" = 0\n"255" = 1\n', encoding="utf-8")
        outcome = run("datasets", "check", f"folder:{skin}", "--labels", "2", "--json")
        assert set(json.loads(outcome.out)["pixels"]) == {"class 0", "class 1", "ignore"}

    @pytest.mark.parametrize("form", ["file", "table", "list"])
    def test_classes_are_given(self, run: Run, skin: Path, classes: Path, form: str) -> None:
        given = {"file": classes, "table": '{ names = ["background", "lesion"] }', "list": '["background", "lesion"]'}
        outcome = run("datasets", "check", f"folder:{skin}", "--labels", given[form], "--json")
        assert (outcome.code, outcome.err) == (0, "")
        assert list(json.loads(outcome.out)["pixels"]) == ["background", "lesion", "ignore"]

    def test_they_are_those_of_a_mapping_that_has_no_other(self, run: Run, skin: Path) -> None:
        outcome = run("datasets", "check", f"folder:{skin}", "--json")
        assert (outcome.code, list(json.loads(outcome.out)["pixels"])) == (0, ["background", "lesion", "ignore"])
        assert outcome.err == (
            f"note: using the classes of {skin / 'dataset.toml'}: background, lesion; a recipe needs them as labels\n"
        )

    def test_a_slip_in_a_mapping_stays_one(self, run: Run, skin: Path) -> None:
        (skin / "dataset.toml").write_text('[labels.mapping]\n"0" = "raod"\n"255" = "car"\n', encoding="utf-8")
        assert_one_line(run("datasets", "check", f"folder:{skin}"), "'raod' is neither", "did you mean", "--labels")

    def test_wrong_classes_are_named(self, run: Run, skin: Path, tmp_path: Path) -> None:
        check = ("datasets", "check", f"folder:{skin}", "--labels")
        assert_one_line(run(*check, "citiscapes"), "unknown label space 'citiscapes'; did you mean 'cityscapes'")
        assert_one_line(run(*check, tmp_path / "no.toml"), "no.toml: no such file")
        assert_one_line(run(*check, "{ name = 'a' }"), "required field missing @ $.names")

    def test_convert_writes_their_train_ids(self, run: Run, skin: Path, classes: Path, tmp_path: Path) -> None:
        assert run("datasets", "convert", f"folder:{skin}", tmp_path / "out", "--labels", classes).code == 0
        with Image.open(tmp_path / "out" / "labels" / "train" / "a.png") as picture:
            assert set(np.unique(np.asarray(picture))) == {0, 1}
        assert "classes (background, lesion)" in (tmp_path / "out" / "dataset.toml").read_text(encoding="utf-8")
        other = run("datasets", "convert", f"folder:{skin}", tmp_path / "out", "--labels", '["lesion", "background"]')
        assert_one_line(other, "has folder:", "choose another folder")


class TestTrain:
    def test_a_recipe_takes_a_file_and_keeps_what_it_says(
        self, run: Run, skin: Path, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "small.toml").write_text(SMALL_RECIPE, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        sets = ("--set", f"data.source=folder:{skin}", "--set", "labels=classes.toml")
        outcome = run("train", tmp_path / "small.toml", *sets, "--out", tmp_path / "run")
        assert outcome.code == 0, outcome
        labels = clouds.load(tmp_path / "run" / "warmup", device="cpu").labels
        assert (labels.name, labels.names, labels.things) == ("classes", ("background", "lesion"), (False, True))
        classes.unlink()
        assert json.loads((tmp_path / "run" / "recipe.json").read_text(encoding="utf-8"))["model"]["labels"][
            "names"
        ] == [
            "background",
            "lesion",
        ]
        assert run("train", "--resume", tmp_path / "run").code == 0

    def test_a_plan_shows_them(self, run: Run, classes: Path) -> None:
        assert "(2 classes)" in run("plan", "demo", "--labels", classes).out
        assert 'names = ["background", "lesion"]' in run("plan", "demo", "--labels", classes).out

    def test_a_file_that_is_not_there_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file"):
            load_recipe("demo", ["labels=nowhere.toml"])

    def test_a_source_without_a_labelled_pixel_is_refused(self, run: Run, skin: Path, tmp_path: Path) -> None:
        (tmp_path / "small.toml").write_text(SMALL_RECIPE, encoding="utf-8")
        (skin / "dataset.toml").write_text('[labels.mapping]\n"0" = "ignore"\n', encoding="utf-8")
        train = ("train", tmp_path / "small.toml", "--set", f"data.source=folder:{skin}", "--out", tmp_path / "run")
        assert_one_line(run(*train), "no labelled pixel in 2 label maps", "clouds datasets check")
        assert not (tmp_path / "run").exists()

    def test_files_that_are_not_used_are_said_once(self, run: Run, skin: Path, tmp_path: Path) -> None:
        (tmp_path / "small.toml").write_text(SMALL_RECIPE, encoding="utf-8")
        (skin / "images" / "train" / "c.gif").write_bytes(b"GIF89a")
        sets = ("--set", f"data.source=folder:{skin}", "--labels", '["background", "lesion"]')
        outcome = run("train", tmp_path / "small.toml", *sets, "--out", tmp_path / "run")
        assert outcome.code == 0
        assert outcome.err.count("note: ") == 1
        assert outcome.err.startswith(f"note: folder:{skin}:train: 1 file (c.gif): not read; pictures are files that")


def test_evaluate_fails_where_nothing_is_labelled_and_still_reports(
    run: Run, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_png(tmp_path / "void" / "images" / "val" / f"{name}.png", np.zeros((40, 50, 3), np.uint8))
        write_png(tmp_path / "void" / "labels" / "val" / f"{name}.png", np.full((40, 50), 255, np.uint8))
    data = (f"folder:{photos}", f"folder:{tmp_path / 'void'}")
    outcome = run("evaluate", checkpoint, "--data", *data, "--json", tmp_path / "all.json", "--device", "cpu")
    assert outcome.code == 1
    assert outcome.err.startswith("error: void:val: no labelled pixel, so nothing was measured; ")
    assert " over 1 of 2 domains, " in outcome.out
    assert "photos:val: means over 3 of 19 classes; its labels lack wall, fence, " in outcome.out
    assert "void:val: no labelled pixel in 2 images, so nothing is measured" in outcome.out
    document = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert document["per_domain"]["void:val"] is None
    assert len(document["missing"]["photos:val"]) == 16


def test_a_set_without_a_picture_is_a_failure(run: Run, tmp_path: Path) -> None:
    call = ("generate", "--generator", "procedural", "--n", 2, "--size", 64, 64, "--filter", "blank=127")
    assert_one_line(
        run(*call, "--attempts", 1, "--out", tmp_path / "set"),
        "set: none of 2 images was kept, each was rejected 1 times",
        "--filter",
        "--attempts",
    )


def test_the_limit_of_pixels_is_an_option(run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    predict = ("predict", checkpoint, photos / "images" / "val" / "a.png", "--out", tmp_path / "out", "--device", "cpu")
    refused = run(*predict, "--max-pixels", 1999)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "a.png: has 40 x 50 pixels" in refused.err
    assert refused.err.endswith("--max-pixels\n")
    assert run(*predict, "--max-pixels", 2000).code == 0


def test_names_that_are_no_text_are_shown(run: Run, photos: Path) -> None:
    path = photos / "images" / "val" / os.fsdecode(b"x\xff.png")
    path.write_bytes((photos / "images" / "val" / "a.png").read_bytes())
    outcome = run("datasets", "check", f"folder:{photos}")
    assert (outcome.code, r"x\xff.png: has no label file; expected" in outcome.out) == (1, True)
    report = json.loads(run("datasets", "check", f"folder:{photos}", "--json").out)
    assert report["faults"][0]["file"] == str(path)
