"""Generated images with labels of their own: which are used, with which weights, and in which classes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import compose, recipe, write_source

import clouds
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.contract.plan import Part
from clouds.core.system.errors import ConfigError, DataError
from clouds.synthesis.generate import generate_set
from clouds.synthesis.manifest import FILE_NAME
from clouds.training.generated_images import open_generated_images
from clouds.training.recipe import DataConfig
from clouds.training.samples import SampleReader
from clouds.training.train import train

PART = Part(kind="generator", name="three", options={}, distribution="d", version="1")
SIZE = (40, 70)


class Three(clouds.Generator):
    """Noise under a sky: image j mod 3 has exact, inherited or no labels."""

    reads_prompts = False

    def generate(self, requests: Iterable[clouds.GenerationRequest]) -> Iterator[clouds.GeneratedImage]:
        for request in requests:
            labels = np.zeros(request.size, np.uint8)
            labels[:, 35:] = 10
            image = np.random.default_rng(request.seed).integers(0, 99, (*request.size, 3), np.uint8)
            which = request.seed % 3
            yield clouds.GeneratedImage(
                request=request,
                image=image + labels[..., None],
                labels=labels if which < 2 else None,
                label_kind="inherited" if which == 1 else "exact",
            )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generate_set(Three(), PART, ("",), n=6, out=tmp_path / "three", size=SIZE, keep_labels=True)
    return tmp_path / "three"


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_source(tmp_path / "source")


def opened(folder: Path, weight: object, space: clouds.LabelSpace = CITYSCAPES):
    return open_generated_images(DataConfig(generated=str(folder), generated_weight=weight), space)


def test_a_number_leaves_all_labels_to_the_teacher(folder: Path) -> None:
    found = opened(folder, 0.5)
    assert (len(found.pictures), found.labelled) == (6, {})


def test_a_table_takes_the_labels_of_the_kinds_that_it_names(folder: Path) -> None:
    found = opened(folder, {"exact": 1.0, "pseudo": 0.5})
    assert [path.name for path in found.pictures] == ["im_1_p0.png", "im_2_p0.png", "im_4_p0.png", "im_5_p0.png"]
    (kind, dataset), *others = found.labelled.items()
    assert (kind, others, [item.name for item in dataset.items]) == ("exact", [], ["im_0_p0", "im_3_p0"])
    image, labels = dataset.read(1)
    assert image.shape == (*SIZE, 3)
    assert [labels[0, 0], labels[0, -1]] == [0, 10]
    both = opened(folder, {"exact": 1.0, "inherited": 0.25})
    assert [path.name for path in both.pictures] == ["im_2_p0.png", "im_5_p0.png"]
    assert {kind: len(one) for kind, one in both.labelled.items()} == {"exact": 2, "inherited": 2}


def test_labels_are_matched_by_class_name(folder: Path) -> None:
    space = clouds.LabelSpace.from_names(["tree", "sky"])
    _, labels = opened(folder, {"exact": 1.0}, space).labelled["exact"].read(0)
    assert [labels[0, 0], labels[0, -1]] == [255, 1]  # the road is no class; the sky has another train id


def test_inherited_labels_have_the_classes_of_their_source(folder: Path) -> None:
    path = folder / FILE_NAME
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["source"] = {"spec": "folder:x", "classes": ["sky", *(f"class {i}" for i in range(1, 11))]}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, labels = opened(folder, {"inherited": 1.0}).labelled["inherited"].read(0)
    assert [labels[0, 0], labels[0, -1]] == [10, 255]


def test_a_kind_that_no_image_has_is_named(tmp_path: Path, folder: Path) -> None:
    generate_set(Three(), PART, ("",), n=1, out=tmp_path / "one", size=SIZE)
    with pytest.raises(DataError, match=r"one: no image has exact labels, but data\.generated_weight names them"):
        opened(tmp_path / "one", {"exact": 1.0})
    (folder / FILE_NAME).unlink()  # a published set, whose label files are of unknown kind
    with pytest.raises(DataError, match="three: no image has exact labels"):
        opened(folder, {"exact": 1.0})


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"exakt": 1.0}, r"data\.generated_weight has exakt; expected some of exact, inherited, pseudo"),
        ({"exact": -1.0}, r"generated_weight is \{'exact': -1\.0\}; expected at least 0 and at most 1000"),
    ],
)
def test_wrong_tables_are_named(weight: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(generated_weight=weight)


def test_values_that_are_no_weights_are_named() -> None:
    with pytest.raises(ConfigError, match="'much' is neither a number nor a table of numbers"):
        recipe("data.generated_weight=much")


def test_weights_survive_a_file_of_the_recipe(tmp_path: Path) -> None:
    given = recipe("data.generated_weight={exact=1, pseudo=0.5}")
    assert given.data.label_weights == {"exact": 1.0, "pseudo": 0.5}
    (tmp_path / "own.toml").write_text(given.to_toml(), encoding="utf-8")
    from clouds.training.recipe import load_recipe

    assert load_recipe(tmp_path / "own.toml") == given


def test_samples_are_read_with_the_weight_of_their_kind(folder: Path, source: str) -> None:
    from clouds.data.folder import open_dataset

    found = opened(folder, {"exact": 1.0, "inherited": 0.25})
    own = open_dataset(source, CITYSCAPES)
    views = recipe().data.augmentation()
    labelled, weights = tuple(found.labelled.values()), (2.0, 1.0, 0.25, 0.5)
    reader = SampleReader([own], found.pictures, views, seed=0, labelled=labelled, weights=weights, paste_shares=(1.0,))
    assert reader.lengths == [5, 2, 2, 2]
    samples = [reader[which, 0, which] for which in range(4)]
    assert [one.weight for one in samples] == [2.0, 1.0, 0.25, 0.5]
    assert [one.label_map is None for one in samples] == [False, False, False, True]
    assert [one.clean is None for one in samples] == [True, True, True, False]
    assert [one.pasted is None for one in samples] == [True, True, True, False]  # ClassMix changes pseudo-labels alone


def test_labelled_images_need_no_teacher(folder: Path, source: str, tmp_path: Path, monkeypatch) -> None:
    rows = (folder / FILE_NAME).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / FILE_NAME).write_text("".join(row for row in rows if '"pseudo"' not in row), encoding="utf-8")
    monkeypatch.setattr("clouds.training.loop.Teacher", None)  # calling it would fail
    weights = "data.generated_weight={exact=1, inherited=0.5}"
    run = train(compose(), source=source, generated=folder, recipe=recipe(weights), out=tmp_path / "run")
    assert (run.steps, np.isfinite(run.loss)) == (8, True)


def test_their_loss_is_that_of_a_source_with_the_same_labels(folder: Path, source: str, tmp_path: Path) -> None:
    """Exact labels teach as a labelled source of these images does: the same bits after the same steps."""
    for name in ("images", "labels"):
        for index in (0, 3):
            path = tmp_path / "copy" / name / "train" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((folder / name / f"im_{index}_p0.png").read_bytes())
    more = ["data.source_factors=[0]", "joint.batch_size=2"]
    one, other = compose(refiner=None), compose(refiner=None)
    rows = (folder / FILE_NAME).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / FILE_NAME).write_text("".join(row for row in rows if '"exact"' in row), encoding="utf-8")
    joint = {"phase": "joint", "recipe": recipe(*more, "data.generated_weight={exact=0.5}", f"data.source={source}")}
    train(one, source=source, generated=folder, out=tmp_path / "a", **joint)
    weights = ["data.source_factors=[0,1]", "data.source_weights=[1,0.5]", "joint.batch_size=2"]
    both = [source, f"folder:{tmp_path / 'copy'}"]
    train(
        other,
        source=both,
        recipe=recipe(*weights, f"data.source={json.dumps(both)}"),
        out=tmp_path / "b",
        phase="joint",
    )
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
