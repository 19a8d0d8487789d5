import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Run, assert_one_line
from PIL import Image

import clouds
from clouds.core.contract.catalog import Catalog
from clouds.core.system.images import write_png
from clouds.generators.tiny_diffusion import tiny_pipeline
from clouds.synthesis.generated_set import open_generated


class TestPrompts:
    def test_it_writes_one_prompt_per_line(self, run: Run, tmp_path: Path) -> None:
        outcome = run("prompts", "--n", 5, "--out", tmp_path / "prompts.txt")
        assert outcome.code == 0
        assert outcome.out.startswith(f"5 prompts in {tmp_path / 'prompts.txt'}, 5 distinct; they name\n")
        assert len(set((tmp_path / "prompts.txt").read_text(encoding="utf-8").splitlines())) == 5

    def test_prompts_depend_on_the_seed_alone(self, run: Run, tmp_path: Path) -> None:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            run("prompts", "--n", 5, "--out", tmp_path / name, "--seed", seed)
        a, b, c = ((tmp_path / name).read_text(encoding="utf-8") for name in "abc")
        assert a == b != c

    def test_options_of_the_prompter_are_set(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("a\nb\n", encoding="utf-8")
        path = f"path={tmp_path / 'mine.txt'}"
        assert run("prompts", "--prompter", "file", "--set", path, "--n", 2, "--out", tmp_path / "out").code == 0
        assert (tmp_path / "out").read_text(encoding="utf-8") == "a\nb\n"

    def test_it_counts_what_prompts_speak_of(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text(
            "A car at night in rain\nTwo cars and a tram in fog at dusk\nA church\n", encoding="utf-8"
        )
        call = ("prompts", "--prompter", "file", "--set", f"path={tmp_path / 'mine.txt'}", "--n", 4)
        outcome = run(*call, "--out", tmp_path / "out", "--json")
        found = json.loads(outcome.out)
        assert (outcome.code, found["prompts"], found["distinct"]) == (0, 4, 3)
        assert {name: count for name, count in found["classes"].items() if count} == {
            "building": 1,
            "car": 3,
            "train": 1,
        }
        assert found["weather"] == {"fog": 1, "rain": 2, "snow": 0, "overcast": 0, "clear": 0, "not said": 1}
        assert found["time"] == {"dusk or dawn": 1, "night": 2, "day": 0, "not said": 1}
        assert "  time of day: dusk or dawn 1, night 2, day 0, not said 1\n" in run(*call, "--out", tmp_path / "b").out

    def test_it_counts_who_wrote_them(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model that repeats the plain sentence, unless it rains or snows; then the grammar's words are taken."""
        monkeypatch.setattr(
            "clouds.prompters.chat_models.LocalModel.answer",
            lambda model, question, **_: "" if "rainy" in question or "snowy" in question else question,
        )
        options = ("--prompter", "llm", "--set", "model=mine.gguf", "--set", "rounds=2", "--n", 10)
        call = ("prompts", *options, "--out", tmp_path / "out")
        assert run(*call).out.endswith("\nwritten by: grammar 4, mine.gguf 6\nquestions: 1 6, 2 4\n")
        found = json.loads(run(*call, "--json").out)
        assert found["written_by"] == {"grammar": 4, "mine.gguf": 6}
        assert found["questions"] == {"1": 6, "2": 4}
        call = ("generate", *TestGenerate.SMALL, "--prompter", "llm", "--set", "prompter.model=mine.gguf", "--json")
        made = json.loads(run(*call, "--n", 10, "--out", tmp_path / "set").out)
        assert made["written_by"] == {"grammar": 4, "mine.gguf": 6}
        origins = [row.prompt_origin for row in open_generated(tmp_path / "set").rows]
        assert origins.count({"by": "grammar", "questions": 5}) == 4
        assert origins.count({"by": "mine.gguf", "questions": 1}) == 6

    def test_an_empty_file_is_named(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("\n# nothing yet\n", encoding="utf-8")
        call = ("prompts", "--prompter", "file", "--set", f"path={tmp_path / 'mine.txt'}", "--n", 4)
        assert_one_line(run(*call, "--out", tmp_path / "out"), "mine.txt: has no prompt; write one per line")
        generate = ("generate", *TestGenerate.SMALL, "--prompts", tmp_path / "mine.txt", "--n", 1)
        assert_one_line(run(*generate, "--out", tmp_path / "set"), "mine.txt: has no prompt; write one per line")

    def test_a_failure_writes_nothing(self, run: Run, tmp_path: Path) -> None:
        outcome = run("prompts", "--n", 2, "--out", tmp_path / "out", "--prompter", "gramar")
        assert outcome.code == 1
        assert "unknown prompter 'gramar'; did you mean 'grammar'?" in outcome.err
        assert list(tmp_path.iterdir()) == []


class TestGenerate:
    SMALL = ("--generator", "procedural", "--size", 32, 48)

    def test_it_makes_a_dataset_from_a_prompt_file(self, run: Run, tmp_path: Path) -> None:
        prompts, out = tmp_path / "prompts.txt", tmp_path / "set"
        prompts.write_text("A photo of a street in daylight.\nA photo of a street at night.\n", encoding="utf-8")
        outcome = run("generate", *self.SMALL, "--prompts", prompts, "--n", 3, "--out", out, "--keep-labels")
        assert (outcome.code, outcome.out, outcome.err) == (0, f"3 images with labels in {out}\n", "")
        made = open_generated(out)
        assert [row.prompt_index for row in made.rows] == [0, 1, 0]
        assert made.rows[0].generator.name == "procedural"
        assert made.labels is not None

    def test_it_goes_on_and_says_so_as_json(self, run: Run, tmp_path: Path) -> None:
        call = ("generate", *self.SMALL, "--prompter", "grammar", "--n", 3, "--out", tmp_path / "set", "--json")
        first = run(*call)
        manifest = (tmp_path / "set" / "manifest.jsonl").read_bytes()
        assert run(*call) == first
        counts = {"images": 3, "left_out": 0, "prompts": 3}
        assert json.loads(first.out) == {"folder": str(tmp_path / "set"), **counts, "labels": False}
        assert (tmp_path / "set" / "manifest.jsonl").read_bytes() == manifest

    def test_photographs_take_the_place_of_drawings(self, run: Run, tmp_path: Path) -> None:
        for name in "ab":
            write_png(tmp_path / "mine" / "images" / "train" / f"{name}.png", np.full((40, 60, 3), 9, np.uint8))
        call = ("generate", "--generator", "photographs", "--n", 2, "--size", 32, 48)
        outcome = run(*call, "--pictures", f"folder:{tmp_path / 'mine'}", "--out", tmp_path / "set", "--json")
        assert outcome.code == 0, outcome.err
        assert [row.prompt for row in open_generated(tmp_path / "set").rows] == ["", ""]
        folder = tmp_path / "mine" / "images" / "train"
        refused = run(*call, "--pictures", folder, "--prompter", "grammar", "--out", tmp_path / "other")
        assert_one_line(refused, "generator photographs reads no prompts; leave them out")
        nothing = run(*call, "--pictures", tmp_path, "--out", tmp_path / "other")
        assert_one_line(nothing, "holds no picture")
        elsewhere = run("generate", *self.SMALL, "--pictures", folder, "--n", 1, "--out", tmp_path / "other")
        assert "generator: procedural: unknown option 'pictures'" in elsewhere.err

    def test_labelled_images_lend_their_labels(self, run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
        tiny_pipeline("stable-diffusion-2").save_pretrained(tmp_path / "model")
        call = ("generate", "--generator", "img2img", "--set", f"model={tmp_path / 'model'}", "--set", "steps=2")
        call += ("--n", 2, "--size", 32, 48, "--out", tmp_path / "set")
        assert_one_line(run(*call), "generator img2img starts from labelled images; give their SPEC as source")
        call += ("--source", f"folder:{photos}:val", "--filter", "consistency=0", "--agreement", 0.75)
        assert_one_line(run(*call), "consistency needs a trained pipeline; also give --segmenter CHECKPOINT", code=2)
        outcome = run(*call, "--segmenter", checkpoint)
        assert outcome.code == 0, outcome.err
        rows = open_generated(tmp_path / "set").rows
        assert [row.label_kind for row in rows] == ["inherited", "inherited"]
        counts = [sum(row.regions[what] for row in rows) for what in ("dropped", "labelled")]
        assert f"2 images with labels in {tmp_path / 'set'}; {counts[0]} of {counts[1]} labelled regions" in outcome.out
        assert json.loads(run(*call, "--segmenter", checkpoint, "--json").out)["regions"]["dropped"] == counts[0]

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            (
                ("--segmenter", "run"),
                "--segmenter is read by the filter consistency alone; also give --filter",
            ),
            (("--labels", "camvid-11"), "--labels is the label space of --source, which is missing"),
        ],
    )
    def test_options_that_nothing_reads_are_refused(
        self, run: Run, tmp_path: Path, option: tuple[str, str], message: str
    ) -> None:
        refused = run("generate", *self.SMALL, *option, "--filter", "blank", "--n", 1, "--out", tmp_path / "set")
        assert_one_line(refused, message, code=2)
        assert not (tmp_path / "set").exists()

    def test_another_request_is_refused_in_one_line(self, run: Run, tmp_path: Path) -> None:
        call = ("generate", *self.SMALL, "--n", 1, "--out", tmp_path / "set")
        assert run(*call).code == 0
        assert_one_line(run(*call, "--seed", 5), "seed 0, now 5", "or another folder")

    def test_faults_of_the_generator_come_at_once(self, run: Run, tmp_path: Path) -> None:
        outcome = run("generate", "--generator", "procedural", "--set", "x=1", "--n", 1, "--out", tmp_path / "set")
        assert outcome.code == 1
        assert "generator: procedural: unknown option 'x'" in outcome.err
        assert not (tmp_path / "set").exists()

    def test_filters_and_shards(self, run: Run, tmp_path: Path) -> None:
        call = ("generate", *self.SMALL, "--n", 3, "--out", tmp_path / "set", "--verify")
        call += ("--filter", "blank", "--filter", "duplicate=2", "--shards")
        outcome = run(*call)
        assert (outcome.code, outcome.out) == (0, f"3 images in {tmp_path / 'set'}\n"), outcome
        assert open_generated(tmp_path / "set").rows[0].filters == {"blank": 3.0, "duplicate": 2.0}
        assert run("sheet", tmp_path / "set", "--out", tmp_path / "a.html").code == 0
        page = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert page.count("<img ") == 3
        assert "blank &gt;= 3, duplicate &gt;= 2" in page
        assert [path.name for path in (tmp_path / "set" / "shards").iterdir()] == ["000000.tar"]

    def test_what_never_passes_is_counted(self, run: Run, tmp_path: Path) -> None:
        call = ("generate", *self.SMALL, "--n", 2, "--out", tmp_path / "set", "--filter", "duplicate=64")
        outcome = run(*call, "--attempts", 1)  # no second picture differs from the first in all 64 bits
        assert (outcome.code, outcome.out) == (
            0,
            f"1 images in {tmp_path / 'set'}; 1 left out, rejected 1 times each\n",
        )

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("blnk", "unknown filter 'blnk'; did you mean 'blank'?"),
            ("duplicate=many", "'many' is not a number; write duplicate or duplicate=NUMBER"),
        ],
    )
    def test_wrong_filters_are_named(self, run: Run, tmp_path: Path, text: str, words: str) -> None:
        call = ("generate", *self.SMALL, "--n", 1, "--out", tmp_path / "set")
        assert_one_line(run(*call, "--filter", text), f"--filter {text}: {words}", code=2)

    def test_modules_go_to_the_device(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from clouds.generators import components as generators
        from clouds.prompters import components as prompters

        built_in = {"clouds-dgss:generators": generators, "clouds-dgss:prompters": prompters}
        catalog = Catalog({**built_in, "placed": Placed})
        monkeypatch.setattr(Catalog, "from_environment", lambda: catalog)
        outcome = run("generate", "--generator", "placed", "--n", 1, "--out", tmp_path / "set", "--device", "cuda:99")
        assert_one_line(outcome, "device 'cuda:99' asked for, but torch sees")
        outcome = run("generate", "--generator", "placed", "--n", 1, "--out", tmp_path / "set", "--size", 8, 8)
        assert outcome.code == 0, outcome.err


class TestSheet:
    def test_the_published_layout_is_shown(self, run: Run, tmp_path: Path) -> None:
        for index in range(8):
            write_png(tmp_path / "images" / f"im_{index}_p{index}.png", np.full((8, 8, 3), index, np.uint8))
        outcome = run("sheet", tmp_path, "--n", 7)
        assert (outcome.code, outcome.out) == (0, f"contact sheet: {tmp_path / 'sheet.html'}\n")
        page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
        assert page.count("<img ") == 7
        assert "There is no manifest" in page
        assert "im_0_p0" in page

    def test_no_pictures_are_refused(self, run: Run, tmp_path: Path) -> None:
        write_png(tmp_path / "images" / "im_0_p0.png", np.zeros((8, 8, 3), np.uint8))
        assert_one_line(run("sheet", tmp_path, "--n", 0), "a contact sheet needs at least 1 image, got n=0")


class Placed:
    """A plugin with a generator that is a module."""

    @staticmethod
    @clouds.hookimpl
    def clouds_generators() -> list[clouds.Component]:
        return [clouds.Component(name="placed", kind="generator", factory=f"{__name__}:placed", summary="grey")]


def placed() -> clouds.Generator:
    from torch import nn

    class Grey(nn.Module, clouds.Generator):
        def generate(self, requests: Iterable[clouds.GenerationRequest]) -> Iterator[clouds.GeneratedImage]:
            for request in requests:
                yield clouds.GeneratedImage(request=request, image=np.full((*request.size, 3), 128, np.uint8))

    return Grey()


class TestDatasetsCheck:
    def test_a_sound_dataset(self, run: Run, photos: Path) -> None:
        outcome = run("datasets", "check", f"folder:{photos}")
        assert (outcome.code, outcome.err) == (0, "")
        assert "road" in outcome.out
        assert outcome.out.endswith("photos:val: 2 images, 0 faults\n")
        document = json.loads(run("datasets", "check", f"folder:{photos}:val", "--json").out)
        assert document["ok"] is True
        assert document["pixels"]["ignore"] == 2 * 50

    def test_it_writes_a_class_index(self, run: Run, photos: Path, tmp_path: Path) -> None:
        outcome = run("datasets", "check", f"folder:{photos}", "--index", tmp_path / "index.json")
        assert outcome.out.endswith(f"0 faults; class index in {tmp_path / 'index.json'}\n")
        assert json.loads((tmp_path / "index.json").read_text(encoding="utf-8"))["classes"][0] == "road"

    def test_all_faults_are_found(self, run: Run, photos: Path) -> None:
        (photos / "labels" / "val" / "a.png").unlink()
        (photos / "images" / "val" / "b.png").write_text("hello", encoding="utf-8")
        outcome = run("datasets", "check", f"folder:{photos}", "--json")
        assert outcome.code == 1
        assert {fault["kind"] for fault in json.loads(outcome.out)["faults"]} == {"missing label", "image"}

    def test_another_encoding_comes_with_a_config(self, run: Run, photos: Path, tmp_path: Path) -> None:
        for path in (photos / "labels" / "val").iterdir():
            write_png(path, np.full((40, 50), 26, np.uint8))  # the Cityscapes id of "car"
        assert run("datasets", "check", f"folder:{photos}").code == 1
        (tmp_path / "ids.toml").write_text('[labels]\nencoding = "ids"\n', encoding="utf-8")
        outcome = run("datasets", "check", f"folder:{photos}", "--dataset-config", tmp_path / "ids.toml", "--json")
        assert json.loads(outcome.out)["pixels"]["car"] == 2 * 40 * 50

    @pytest.mark.parametrize("shape", [(4, 5, 4), (4, 5), (1, 1, 3)])
    def test_unusual_pictures_are_sound(self, run: Run, tmp_path: Path, shape: tuple[int, ...]) -> None:
        folder = tmp_path / "odd"
        write_png(folder / "labels" / "val" / "a.png", np.zeros(shape[:2], np.uint8))
        (folder / "images" / "val").mkdir(parents=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(folder / "images" / "val" / "a.png")
        assert run("datasets", "check", f"folder:{folder}").code == 0

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("folder:{}/nowhere", ["nowhere", "images/<split>"]),
            ("folder:{}/empty", ["empty/images/val", "holds no image"]),
            ("folder:{}/photos:train", ["has no split 'train'", "val"]),
            ("foldr:{}/photos", ["unknown kind 'foldr'; did you mean 'folder'?"]),
            ("{}/photos", ["names no kind"]),
        ],
    )
    def test_what_is_no_dataset_is_named(
        self, run: Run, photos: Path, tmp_path: Path, spec: str, words: list[str]
    ) -> None:
        (tmp_path / "empty" / "images" / "val").mkdir(parents=True)
        assert_one_line(run("datasets", "check", spec.format(tmp_path)), *words)

    def test_many_faults_are_shortened(self, run: Run, photos: Path) -> None:
        for number in range(25):
            write_png(photos / "labels" / "val" / f"orphan{number}.png", np.zeros((1, 1), np.uint8))
        outcome = run("datasets", "check", f"folder:{photos}")
        assert outcome.code == 1
        assert outcome.out.count("fault: ") == 20
        assert "... and 5 more faults; --json lists all" in outcome.out


class TestDatasetsConvert:
    def test_it_writes_train_ids_and_goes_on(self, run: Run, photos: Path, tmp_path: Path) -> None:
        for path in (photos / "labels" / "val").iterdir():
            write_png(path, np.full((40, 50), 26, np.uint8))  # the Cityscapes id of "car"
        (tmp_path / "ids.toml").write_text('[labels]\nencoding = "cityscapes"\n', encoding="utf-8")
        out = tmp_path / "out"
        call = ("datasets", "convert", f"folder:{photos}", out, "--dataset-config", tmp_path / "ids.toml")
        outcome = run(*call)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out == f"2 label maps written, 0 existed: folder:{out}:val\n"
        assert np.array(Image.open(out / "labels" / "val" / "a.png")).max() == 13
        assert (out / "images" / "val" / "a.png").is_symlink()
        assert json.loads(run(*call, "--json").out) == {"spec": f"folder:{out}:val", "images": 2, "written": 0}
        assert run("datasets", "check", f"folder:{out}").code == 0

    def test_images_can_be_copied(self, run: Run, photos: Path, tmp_path: Path) -> None:
        assert run("datasets", "convert", f"folder:{photos}", tmp_path / "out", "--images", "copy").code == 0
        assert not (tmp_path / "out" / "images" / "val" / "a.png").is_symlink()
        assert run("datasets", "convert", f"folder:{photos}", tmp_path / "out", "--images", "move").code == 2

    def test_what_is_no_dataset_is_named(self, run: Run, tmp_path: Path) -> None:
        outcome = run("datasets", "convert", f"cityscapes:{tmp_path}", tmp_path / "out")
        assert_one_line(outcome, "no folder", "leftImg8bit/<split>/<city>/", "gtFine_trainvaltest.zip")
        assert not (tmp_path / "out").exists()
