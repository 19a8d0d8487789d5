from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import clouds
from clouds.core.contract.plan import Part
from clouds.core.system.errors import ConfigError, DataError
from clouds.synthesis.filters import BITS, BlankFilter, DuplicateFilter, Filter, fingerprint, judge
from clouds.synthesis.generate import generate_set
from clouds.synthesis.generated_set import GeneratedSet, open_generated
from clouds.synthesis.manifest import read_rows
from clouds.synthesis.order import ATTEMPT
from clouds.synthesis.rejections import FILE_NAME

PART = Part(kind="generator", name="stub", distribution="d", version="1")
SIZE = (32, 48)


def textured(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Smooth colours at random, as different from seed to seed as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def generated(pixels: np.ndarray) -> clouds.GeneratedImage:
    request = clouds.GenerationRequest(prompt="a", seed=0, size=pixels.shape[:2])
    return clouds.GeneratedImage(request=request, image=pixels)


class Faulty(clouds.Generator):
    """Draws grey for the seeds in `blank`, the same picture for those in `equal`; it counts what it drew."""

    def __init__(self, *, blank: Iterable[int] = (), equal: Iterable[int] = ()) -> None:
        self.blank, self.equal, self.seeds = set(blank), set(equal), list[int]()

    def generate(self, requests: Iterable[clouds.GenerationRequest]) -> Iterator[clouds.GeneratedImage]:
        for request in requests:
            self.seeds.append(request.seed)
            pixels = textured(0 if request.seed in self.equal else request.seed + 1, request.size)
            pixels = np.full_like(pixels, 7) if request.seed in self.blank else pixels
            yield clouds.GeneratedImage(request=request, image=pixels)


def make(out: Path, generator: Faulty, *filters: Filter, n: int = 5, batch_size: int = 2) -> GeneratedSet:
    return generate_set(
        generator, PART, ["day", "night"], n=n, out=out, size=SIZE, batch_size=batch_size, filters=filters
    )


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(-30, 30))
def test_a_fingerprint_stands_small_changes_and_tells_pictures_apart(first: int, brighter: int) -> None:
    """Contrast and brightness change no sign but those next to the median; another picture has about half of the bits.

    Of 12,000 such pictures 4.3 +- 1.9 bits change, and 31.5 +- 5.3 are different in another. The means of 40 of them
    are 0.3 and 0.8 wide, and the bounds more than seven times that away.
    """
    near, far = [], []
    for seed in range(first, first + 40):
        pixels = textured(seed)
        changed = Image.fromarray(np.clip(pixels.astype(int) // 2 + 60 + brighter, 0, 255).astype(np.uint8))
        larger = np.asarray(changed.resize((96, 64), Image.Resampling.BICUBIC))
        duplicates = DuplicateFilter()
        duplicates.keep(fingerprint(pixels))
        near.append(duplicates.score(generated(larger)))
        far.append(duplicates.score(generated(textured(seed + 1))))
    assert np.mean(near) < 6.5
    assert np.mean(far) > 25


def test_the_nearest_of_many_counts() -> None:
    duplicates = DuplicateFilter()
    assert duplicates.score(generated(textured(0))) == BITS
    for seed in range(1, 1500):  # more than it has room for at first
        duplicates.keep(f"{seed:016x}")
    duplicates.keep(fingerprint(textured(0)))
    assert duplicates.score(generated(textured(0))) == 0


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_pictures_are_found(level: int) -> None:
    pixels = np.full((*SIZE, 3), level, np.uint8)
    judged = judge(generated(pixels), [BlankFilter()])
    assert (judged.scores, judged.rejected_by) == ({"blank": 0.0}, "blank")
    assert judge(generated(textured(1)), [BlankFilter()]).rejected_by is None


def test_a_score_that_is_no_number_is_rejected() -> None:
    class Broken(Filter):
        name, least = "broken", -2.0

        def score(self, image: clouds.GeneratedImage) -> float:
            return float("nan")

    judged = judge(generated(textured(1)), [Broken(), BlankFilter()])
    assert (judged.scores, judged.rejected_by) == ({"broken": -1.0}, "broken")


@pytest.mark.parametrize("least", [-1.0, float("nan")])
@pytest.mark.parametrize("kind", [BlankFilter, DuplicateFilter])
def test_thresholds_below_zero_are_refused(kind: type[BlankFilter], least: float) -> None:
    with pytest.raises(ConfigError, match=rf"filter {kind.name}: the minimum score is {least}; expected 0 or more"):
        kind(least)


def test_a_rejected_image_gets_another_seed(tmp_path: Path) -> None:
    made = make(tmp_path, Faulty(blank=[1], equal=[2, 3]), BlankFilter(), DuplicateFilter())
    assert [row.seed for row in made.rows] == [0, 1 + ATTEMPT, 2, 3 + ATTEMPT, 4]
    assert [row.file for row in made.rows][1] == "images/im_1_p1.png"
    assert set(made.rows[0].scores) == {"blank", "duplicate"}
    assert made.rows[0].filters == {"blank": 3.0, "duplicate": 5.0}
    assert make(tmp_path, (again := Faulty()), BlankFilter(), DuplicateFilter()) == made
    assert again.seeds == []


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_filtered_sets_do_not_depend_on_batch_or_interruption(tmp_path: Path, batch_size: int) -> None:
    faults = {"blank": [1, 1 + ATTEMPT], "equal": [0, 2, 4]}
    whole = make(tmp_path / "whole", Faulty(**faults), BlankFilter(), DuplicateFilter(), batch_size=batch_size)
    make(tmp_path / "grown", Faulty(**faults), BlankFilter(), DuplicateFilter(), n=2)
    grown = make(tmp_path / "grown", Faulty(**faults), BlankFilter(), DuplicateFilter())
    assert [(row.index, row.seed, row.sha256) for row in whole.rows] == [
        (row.index, row.seed, row.sha256) for row in grown.rows
    ]


def test_what_is_given_up_is_not_tried_again_but_by_other_filters(tmp_path: Path) -> None:
    never = [1, 1 + ATTEMPT, 1 + 2 * ATTEMPT]
    made = make(tmp_path, Faulty(blank=never), BlankFilter())
    assert [row.index for row in made.rows] == [0, 2, 3, 4]
    make(tmp_path, (same := Faulty(blank=never)), BlankFilter())
    assert same.seeds == []
    make(tmp_path, (other := Faulty()), BlankFilter(2.0))
    assert other.seeds == [1]
    assert len(read_rows(tmp_path)) == 5


def test_an_image_that_is_made_again_keeps_its_seed(tmp_path: Path) -> None:
    made = make(tmp_path, Faulty(blank=[1]), BlankFilter(), DuplicateFilter())
    made.images[1].unlink()
    make(tmp_path, (again := Faulty(blank=[1])), BlankFilter(), DuplicateFilter())
    assert again.seeds == [1 + ATTEMPT]


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_an_image_that_is_made_again_is_not_judged_again(tmp_path: Path, missing: bool, attempts: int) -> None:
    generator = Faulty(blank=[1])
    made = make(tmp_path, generator, BlankFilter())
    rejected = (tmp_path / FILE_NAME).read_bytes()
    pixels = made.images[1].read_bytes()
    if missing:
        made.images[1].unlink()
    else:
        made.images[1].write_bytes(pixels[:-1] + b"?")
    again = generate_set(
        (second := Faulty(blank=[1])),
        PART,
        ["day", "night"],
        n=5,
        out=tmp_path,
        size=SIZE,
        filters=[BlankFilter(127.0)],
        attempts=attempts,
        verify=True,
    )
    assert second.seeds == [1 + ATTEMPT]
    assert made.images[1].read_bytes() == pixels
    assert (again.rows[1].scores, again.rows[1].filters) == (made.rows[1].scores, made.rows[1].filters)
    assert open_generated(tmp_path, verify=True).rows == again.rows
    assert (tmp_path / FILE_NAME).read_bytes() == rejected


def test_a_filter_knows_nothing_of_an_earlier_run(tmp_path: Path) -> None:
    duplicates = DuplicateFilter()
    first = make(tmp_path / "first", Faulty(), duplicates)
    second = make(tmp_path / "second", Faulty(), duplicates)
    assert [(row.seed, row.scores) for row in first.rows] == [(row.seed, row.scores) for row in second.rows]


def test_verifying_includes_what_is_not_asked_for(tmp_path: Path) -> None:
    made = make(tmp_path, Faulty())
    made.images[4].write_bytes(made.images[4].read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"im_4_p0\.png: its SHA-256 differs from"):
        generate_set(Faulty(), PART, ["day", "night"], n=2, out=tmp_path, size=SIZE, verify=True)


def test_a_torn_line_of_rejections_is_dropped_and_a_foreign_file_named(tmp_path: Path) -> None:
    make(tmp_path, Faulty(blank=[1]), BlankFilter(), n=2)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-5])
    make(tmp_path, Faulty(blank=[2]), BlankFilter(), n=3)
    assert path.read_bytes().count(b"\n") == 1
    for text in ("nonsense\n", "[" * 10**5 + "\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"rejected\.jsonl: not a list of rejected images .*remove it to try"):
            make(tmp_path, Faulty(), BlankFilter())
