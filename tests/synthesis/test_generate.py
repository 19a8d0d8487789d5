import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import clouds
from clouds.core.contract.plan import Part
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ComponentError, ConfigError, DataError
from clouds.synthesis.generate import generate_set
from clouds.synthesis.generated_set import open_generated
from clouds.synthesis.manifest import FILE_NAME, appending, read_rows

PART = Part(kind="generator", name="stub", options={"gain": 1.0}, distribution="d", version="1")
PROMPTS = ["day", "night", "fog"]
SIZE = (4, 6)


class Stub(clouds.Generator):
    """Draws noise and labels that depend on the request alone, and counts what it drew."""

    def __init__(self, *, labels: bool = True, shift: int = 0) -> None:
        self.labels, self.shift = labels, shift
        self.seeds: list[int] = []

    def generate(self, requests: Iterable[clouds.GenerationRequest]) -> Iterator[clouds.GeneratedImage]:
        for request in requests:
            self.seeds.append(request.seed)
            rng = np.random.default_rng([request.seed, *request.prompt.encode()])
            height, width = request.size
            labels = rng.integers(0, 19, (height, width + self.shift), np.uint8)
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            yield clouds.GeneratedImage(request=request, image=image, labels=labels if self.labels else None)


def make(out: Path, generator: Stub | None = None, **changes: object) -> Stub:
    """Generate four images, unless the arguments say otherwise."""
    generator = generator or Stub()
    options = {"n": 4, "size": SIZE, **changes}
    prompts = options.pop("prompts", PROMPTS)
    generate_set(generator, options.pop("part", PART), prompts, out=out, **options)  # type: ignore[arg-type]
    return generator


def contents(folder: Path) -> dict[str, bytes]:
    """All files, but for the numbers of images that were drawn together."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found[FILE_NAME] = re.sub(rb'"batch_size": \d+', b"", found[FILE_NAME])
    return found


def test_names_seeds_and_prompts_are_as_published(tmp_path: Path) -> None:
    made = generate_set(Stub(), PART, PROMPTS, n=4, out=tmp_path, seed=7, size=SIZE)
    assert [row.file for row in made.rows] == [
        "images/im_0_p0.png",
        "images/im_1_p1.png",
        "images/im_2_p2.png",
        "images/im_3_p0.png",
    ]
    assert [(row.prompt, row.prompt_index, row.seed) for row in made.rows] == [
        ("day", 0, 7),
        ("night", 1, 8),
        ("fog", 2, 9),
        ("day", 0, 10),
    ]
    assert made.labels is None
    first = made.rows[0]
    assert (first.size, first.steps, first.guidance, first.generator.name) == (SIZE, None, None, "stub")
    assert first.libraries["numpy"] == np.__version__
    assert hashlib.sha256(made.images[0].read_bytes()).hexdigest() == first.sha256


def test_labels_are_kept_when_asked_for_and_known(tmp_path: Path) -> None:
    made = generate_set(Stub(), PART, PROMPTS, n=2, out=tmp_path / "known", size=SIZE, keep_labels=True)
    assert made.labels is not None
    request = clouds.GenerationRequest(prompt="night", seed=1, size=SIZE)
    (drawn,) = Stub().generate([request])
    assert (np.asarray(Image.open(made.labels[1])) == drawn.labels).all()
    assert (np.asarray(Image.open(made.images[1])) == drawn.image).all()
    unknown = generate_set(
        Stub(labels=False), PART, PROMPTS, n=2, out=tmp_path / "unknown", size=SIZE, keep_labels=True
    )
    assert unknown.labels is None


@given(st.integers(1, 9), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=10)
def test_the_folder_does_not_depend_on_the_batch(
    tmp_path_factory: pytest.TempPathFactory, batch_size: int, n: int, keep_labels: bool
) -> None:
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    make(one, n=n, batch_size=1, keep_labels=keep_labels)
    make(other, n=n, batch_size=batch_size, keep_labels=keep_labels)
    assert contents(one) == contents(other)


def test_a_second_call_makes_nothing(tmp_path: Path) -> None:
    make(tmp_path, keep_labels=True)
    before = contents(tmp_path)
    assert make(tmp_path, keep_labels=True).seeds == []
    assert make(tmp_path, keep_labels=False).seeds == []
    assert contents(tmp_path) == before


def test_a_larger_call_makes_the_rest(tmp_path: Path) -> None:
    make(tmp_path / "grown", n=2)
    assert make(tmp_path / "grown", n=5).seeds == [2, 3, 4]
    make(tmp_path / "whole", n=5)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


def test_missing_and_damaged_files_are_made_again(tmp_path: Path) -> None:
    make(tmp_path, keep_labels=True)
    before = contents(tmp_path)
    (tmp_path / "images" / "im_1_p1.png").unlink()
    (tmp_path / "labels" / "im_3_p0.png").write_bytes(b"torn")
    assert make(tmp_path, keep_labels=True).seeds == [1, 3]
    after = contents(tmp_path)
    assert after.pop(FILE_NAME).startswith(before.pop(FILE_NAME))
    assert after == before


def test_labels_that_were_not_kept_are_made_when_asked_for(tmp_path: Path) -> None:
    make(tmp_path, n=2)
    assert make(tmp_path, n=2, keep_labels=True).seeds == [0, 1]
    assert len(list((tmp_path / "labels").iterdir())) == 2


def test_a_generator_without_labels_is_not_asked_twice(tmp_path: Path) -> None:
    make(tmp_path, Stub(labels=False), n=2, keep_labels=True)
    assert make(tmp_path, Stub(labels=False), n=2, keep_labels=True).seeds == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompts": ["dusk", "night", "fog"]}, "prompt 'day', now 'dusk'"),
        ({"seed": 1}, "seed 0, now 1"),
        ({"size": (8, 8)}, r"size \(4, 6\), now \(8, 8\)"),
        ({"part": evolve(PART, options={"gain": 2.0})}, r"generator MadeBy.*gain"),
        ({"prompts": PROMPTS[:2]}, r"image 2 .*file 'images/im_2_p2\.png', now 'images/im_2_p0\.png'"),
    ],
)
def test_another_request_is_refused_and_nothing_changes(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=rf"was made with .*{named}|{named}.*or another folder") as caught:
        make(tmp_path, **changes)
    assert "give the same request to continue, or another folder" in str(caught.value)
    assert contents(tmp_path) == before


def test_another_version_of_the_generator_may_go_on(tmp_path: Path) -> None:
    make(tmp_path, n=1)
    make(tmp_path, n=2, part=evolve(PART, version="2"))
    rows = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text(encoding="utf-8").splitlines()]
    assert [row["generator"]["version"] for row in rows] == ["1", "2"]


def test_folders_with_something_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match=r"is not empty and has no manifest\.jsonl; choose another folder"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failing_generator_leaves_what_was_complete(tmp_path: Path) -> None:
    class Fails(Stub):
        def generate(self, requests: Iterable[clouds.GenerationRequest]) -> Iterator[clouds.GeneratedImage]:
            for image in super().generate(requests):
                if image.request.seed == 2:
                    raise RuntimeError("out of memory")
                yield image

    with pytest.raises(RuntimeError, match="out of memory"):
        make(tmp_path, Fails(), batch_size=1)
    assert make(tmp_path).seeds == [2, 3]


def test_the_batch_that_an_image_was_drawn_in_is_recorded(tmp_path: Path) -> None:
    make(tmp_path, n=5, batch_size=3)
    assert [row.batch_size for row in read_rows(tmp_path)] == [3, 3, 3, 2, 2]


def test_what_the_generator_says_about_itself_is_recorded_and_held_to(tmp_path: Path) -> None:
    class Described(Stub):
        revision = "a1"

        def describe(self) -> dict[str, Any]:
            return {"model": "m", "revision": self.revision, "steps": 50, "guidance": 7.5}

    make(tmp_path, Described())
    row = read_rows(tmp_path)[0]
    assert (row.steps, row.guidance, row.model) == (50, 7.5, {"model": "m", "revision": "a1"})
    other = Described()
    other.revision = "b2"
    with pytest.raises(DataError, match=r"image 0 was made with model .*a1.*, now .*b2"):
        make(tmp_path, other)


def test_verifying_finds_a_file_of_the_same_length(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "images" / "im_2_p2.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    assert make(tmp_path).seeds == []
    with pytest.raises(DataError, match=r"im_2_p2\.png: its SHA-256 differs from manifest\.jsonl"):
        open_generated(tmp_path, verify=True)
    assert make(tmp_path, verify=True).seeds == [2]
    assert path.read_bytes() == whole


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path, n=1)
    with appending(tmp_path), pytest.raises(DataError, match="another run is writing to this folder; wait until"):
        make(tmp_path, n=2)
    assert make(tmp_path, n=2).seeds == [1]


@pytest.mark.parametrize("changes", [{"n": 0}, {"batch_size": 0}, {"attempts": 0}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError,
        match=r"needs n, batch_size and attempts of at least 1, got n=\d, batch_size=\d and",
    ):
        make(tmp_path, **changes)


@pytest.mark.parametrize("prompts", [[], "a street"])
def test_prompts_must_be_a_list(tmp_path: Path, prompts: object) -> None:
    with pytest.raises(ConfigError, match="prompts must be a list of at least one text"):
        make(tmp_path, prompts=prompts)


def test_a_generator_that_gives_another_number_is_named(tmp_path: Path) -> None:
    class Short(Stub):
        def generate(self, requests: Iterable[clouds.GenerationRequest]) -> Iterator[clouds.GeneratedImage]:
            return iter(list(super().generate(requests))[:-1])

    with pytest.raises(ComponentError, match="generator Short returned 3 images for 4 requests"):
        make(tmp_path, Short())


def test_a_generator_that_gives_another_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"returned a label map of shape \(4, 7\) for a request of size \(4, 6\)"):
        make(tmp_path, Stub(shift=1), keep_labels=True)
    assert not list(tmp_path.rglob("*.png"))


@pytest.fixture(scope="module")
def parts() -> dict[str, object]:
    """Backbone and head of a pipeline; generation uses neither."""
    backbone = build_part("backbone", {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]})
    return {"backbone": backbone, "head": "linear", "device": "cpu"}


class TestPipeline:
    """`clouds.generate` takes generator and prompter from a pipeline."""

    def test_it_uses_the_prompter(self, parts: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "prompts.txt"
        path.write_text("day\nnight\nfog\n", encoding="utf-8")
        prompter = {"name": "file", "path": str(path)}
        pipeline = clouds.compose(**parts, generator=Stub(), prompter=prompter)
        made = clouds.generate(pipeline, 3, out=tmp_path / "set", size=SIZE)
        assert [row.prompt for row in made.rows] == ["day", "night", "fog"]
        assert made.rows[0].generator.ready.endswith(":Stub")

    def test_the_manifest_says_who_wrote_a_prompt(self, parts: dict[str, Any], tmp_path: Path) -> None:
        class Two(clouds.Prompter):
            def prompts(self, n: int, *, seed: int) -> list[str]:
                return [prompt.text for prompt in self.write(n, seed=seed)]

            def write(self, n: int, *, seed: int) -> list[clouds.Prompt]:
                return [clouds.Prompt("day", origin={"by": "me"}), clouds.Prompt("night")][:n]

        pipeline = clouds.compose(**parts, generator=Stub(), prompter=Two())
        made = clouds.generate(pipeline, 2, out=tmp_path, size=SIZE)
        assert [(row.prompt, row.prompt_origin) for row in made.rows] == [("day", {"by": "me"}), ("night", None)]
        again = clouds.generate(pipeline, 2, out=tmp_path, prompts=["day", "night"], size=SIZE)
        assert again.rows == made.rows

    def test_given_prompts_come_first(self, parts: dict[str, Any], tmp_path: Path) -> None:
        pipeline = clouds.compose(**parts, generator=Stub())
        made = clouds.generate(pipeline, n=2, out=tmp_path, prompts=["rain"], size=SIZE)
        assert [row.prompt for row in made.rows] == ["rain", "rain"]

    def test_a_missing_generator_is_named(self, parts: dict[str, Any], tmp_path: Path) -> None:
        pipeline = clouds.compose(**parts)
        with pytest.raises(ConfigError, match="the pipeline has no generator; compose it with generator="):
            clouds.generate(pipeline, n=2, out=tmp_path)

    def test_a_missing_prompter_is_named(self, parts: dict[str, Any], tmp_path: Path) -> None:
        pipeline = clouds.compose(**parts, generator=Stub())
        with pytest.raises(ConfigError, match="the pipeline has no prompter; compose it with prompter="):
            clouds.generate(pipeline, n=2, out=tmp_path)
