"""Label-free scores of the checkpoints of an ablation."""

import json
from pathlib import Path

import pytest
from attrs import evolve
from training_helpers import TINY, recipe, write_generated, write_source

import clouds
from clouds.core.system.errors import DataError
from clouds.evaluation.label_free import NAMES, choose_pictures, label_free_scores
from clouds.training.ablation import ablate
from clouds.training.recipe import Recipe


@pytest.fixture
def settings(source: str, generated: Path) -> Recipe:
    return recipe(
        *(f'data.source=["{source}"]', f"data.generated={generated}", "joint.batch_size=4", "device=cpu"),
        *('head={name="linear",width=8}', f"backbone={json.dumps(TINY).replace(':', '=')}", "refiner=regions"),
        *("warmup.steps=1", "joint.steps=1"),
    )


@pytest.fixture
def target(tmp_path: Path) -> str:
    return f"{write_source(tmp_path / 'target', count=3)}:train"


def test_all_checkpoints_are_scored_once(settings: Recipe, target: str, tmp_path: Path) -> None:
    out, said, pictures = tmp_path / "out", list[str](), tmp_path / "target" / "images" / "train"
    call = {"arms": ["source", "refined", "ceiling"], "seeds": [0, 1], "data": [target], "ceiling": [target]}
    before = ablate(settings, out=out, **call)
    assert "Choosing without labels" not in (out / "report.html").read_text(encoding="utf-8")
    result = ablate(settings, out=out, **call, pictures=pictures, count=2, say=said.append)
    names = [one.name for one in result.candidates]
    assert names[2:] == ["source, seed 0", "refined, seed 0", "source, seed 1", "refined, seed 1"]
    assert names[:2] == ["warm-up of source, seed 0", "warm-up of source, seed 1"]
    assert all("consensus" in one.scores for one in result.candidates)
    assert len(said) == 6  # nothing is trained again
    assert json.loads(before.to_json())["arms"] == json.loads(result.to_json())["arms"]
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["arm"] == "ceiling":  # it has learnt from the target's labels
            assert "label_free" not in row
            continue
        assert set(row["label_free"]) == {*NAMES, "consensus"}
        own = next(one for one in result.candidates if one.name == f"{row['arm']}, seed {row['seed']}")
        assert own.miou == row["miou"]
    trained = clouds.load(out / "arms" / "refined" / "seed-1" / "joint", trust=["refiner"])
    expected = label_free_scores(trained, choose_pictures(pictures, 2))
    assert {name: rows[4]["label_free"][name] for name in NAMES} == expected
    for file in ("table.txt", "report.html"):
        text = (out / file).read_text(encoding="utf-8")
        assert "rank correlation (Spearman) of each label-free score with mIoU over 6 checkpoints" in text
        assert "over 3 groups" in text
    said.clear()
    again = ablate(settings, out=out, **call, pictures=pictures, count=2, say=said.append)
    assert (said, again.to_json()) == ([], result.to_json())


def test_a_recipe_without_a_refiner_and_one_seed(settings: Recipe, target: str, tmp_path: Path) -> None:
    plain = evolve(settings, model={key: value for key, value in settings.model.items() if key != "refiner"})
    pictures = write_generated(tmp_path / "more") / "images"
    out = tmp_path / "out"
    result = ablate(plain, arms=["source"], seeds=[0], data=[target], out=out, pictures=pictures)
    assert [set(one.scores) for one in result.candidates] == [set(NAMES) - {"refinement"}] * 2
    assert json.loads(result.to_json())["rank_correlations"]["stability"]["rho"] is None
    said = list[str]()
    ablate(plain, arms=["source"], seeds=[0], data=[target], out=out, pictures=pictures, count=3, say=said.append)
    assert len(said) == 2  # other pictures are scored anew
    file = out / "arms" / "source" / "seed-0" / "label-free" / "scores.json"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"scores\.json: cannot be read .*; remove it, and repeat the call"):
        ablate(plain, arms=["source"], seeds=[0], data=[target], out=out, pictures=pictures)


def test_pictures_are_looked_for_before_anything_is_trained(settings: Recipe, target: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        ablate(settings, arms=["source"], data=[target], out=tmp_path / "out", pictures=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_label_maps_of_an_interrupted_call_do_not_count(
    settings: Recipe, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call with other pictures that is killed while it writes label maps leaves no scores that would hide them."""
    out, pictures, said = tmp_path / "out", tmp_path / "target" / "images" / "train", list[str]()
    call = {"arms": ["source"], "seeds": [0, 1], "data": [target], "out": out}
    first = ablate(settings, **call, pictures=pictures, count=2)

    def kill(pipeline: clouds.Pipeline, files: list[Path], *, keep: Path, **_: object) -> dict[str, float]:
        label_free_scores(pipeline, files[:1], keep=keep)
        raise KeyboardInterrupt

    monkeypatch.setattr("clouds.training.ablation_scores.label_free_scores", kill)
    with pytest.raises(KeyboardInterrupt):
        ablate(settings, **call, pictures=write_generated(tmp_path / "more") / "images")
    monkeypatch.undo()
    again = ablate(settings, **call, pictures=pictures, count=2, say=said.append)
    assert said == ["warm-up of source, seed 0: label-free scores of 2 pictures"]
    assert again.to_json() == first.to_json()
