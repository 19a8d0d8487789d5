"""The whole method in a few steps: everything that `clouds demo` leaves behind, and that the comparison is fair."""

import json
import re
from pathlib import Path

import pytest

import clouds
from clouds.demo import run
from clouds.demo.domains import UNSEEN
from clouds.demo.run import DemoResult, missing_features, run_demo

STEPS = 6
COLUMNS = ("source_only", "clouds", "frozen_source_only", "frozen_clouds", "upper_bound")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    if missing_features():
        pytest.skip(missing_features())
    return small_demo(tmp_path_factory.mktemp("demo"), steps=STEPS)


def small_demo(out: Path, *, steps: int) -> DemoResult:
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("SOURCE_IMAGES", 24), ("UNSEEN_IMAGES", 4), ("GENERATED_IMAGES", 24)):
            patch.setattr(run, name, count)
        return run_demo(out, seed=1, steps=steps)


def test_the_table_has_every_unseen_domain_and_the_mean(demo: DemoResult) -> None:
    table = demo.table()
    assert len(table) == len(UNSEEN) + 1
    assert table[-1][0] == "mean"
    assert len(demo.header) == len(table[0]) == 1 + len(COLUMNS)
    for column in range(1, len(table[0])):
        values = [value for row in table[:-1] if isinstance(value := row[column], float)]
        assert len(values) == len(UNSEEN)
        assert all(0 <= value <= 100 for value in values)
        assert table[-1][column] == pytest.approx(sum(values) / len(values))
    header, rows = demo.by_arm()
    assert header[1:] == (*UNSEEN, "mean")
    assert [
        (name, *column) for name, column in zip(demo.header[1:], list(zip(*table, strict=True))[1:], strict=True)
    ] == rows


@pytest.mark.parametrize("prefix", ["", "frozen-"])
def test_both_arms_make_the_same_number_of_optimizer_steps(demo: DemoResult, prefix: str) -> None:
    logs, recipes = (
        {arm: (demo.out / f"{prefix}{arm}" / name).read_text(encoding="utf-8") for arm in ("source-only", "clouds")}
        for name in ("log.jsonl", "recipe.json")
    )
    assert {len(log.splitlines()) for log in logs.values()} == {STEPS // 2}
    assert demo.steps == STEPS
    recipes = {arm: json.loads(text) for arm, text in recipes.items()}
    assert recipes["source-only"]["data"]["generated"] == ""
    assert recipes["clouds"]["data"]["generated"]
    # half of the batch of CLOUDS is generated: both arms see as many labelled images
    assert recipes["clouds"]["joint"]["batch_size"] == 2 * recipes["source-only"]["joint"]["batch_size"]
    for recipe in recipes.values():
        recipe["data"]["generated"] = recipe["joint"]["batch_size"] = None
    assert recipes["source-only"] == recipes["clouds"]


def test_the_upper_bound_learns_exact_labels_on_frozen_features(demo: DemoResult) -> None:
    recipes = [
        json.loads((demo.out / name / "recipe.json").read_text(encoding="utf-8"))
        for name in ("upper-bound", "frozen-clouds")
    ]
    bound, loop = recipes
    source, exact = bound["data"]["source"]
    assert [source] == loop["data"]["source"]
    names = {path.name for path in demo.out.glob("generated-1/labels/*.png")}
    folder = Path(exact.removeprefix("folder:").removesuffix(":train"))
    assert {path.resolve().name for path in (folder / "labels" / "train").iterdir()} == names
    for recipe in recipes:
        recipe["data"]["source"] = recipe["data"]["generated"] = None
    assert bound == loop


def test_the_json_is_the_table(demo: DemoResult) -> None:
    document = json.loads((demo.out / "result.json").read_text(encoding="utf-8"))
    found = [(name, *(values[column] for column in COLUMNS)) for name, values in document["domains"].items()]
    assert found == demo.table()
    assert (document["backbone"], document["frozen"]["backbone"]) == ("tiny", "efficientnet-lite2")
    assert document["missing"] == ""


def test_only_what_is_trained_differs_from_the_warm_up(demo: DemoResult) -> None:
    assert demo.frozen is not None
    for arms, equal in ((demo.scratch, False), (demo.frozen, True)):
        warm, arm = (one.pipeline.backbone.state_dict() for one in (arms.warmup, arms.clouds))
        assert all(value.equal(arm[name]) for name, value in warm.items()) == equal


def test_without_the_plugin_the_other_columns_remain_and_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDS_PLUGINS", "")
    result = small_demo(tmp_path, steps=2)
    remedy = "pip install plugins/clouds-efficientnet-lite"
    assert re.search(f"backbone 'efficientnet-lite2' is not installed; .*{remedy}", result.missing)
    assert result.frozen is None
    assert [len(row) for row in result.table()] == [4] * 5
    document = json.loads(result.to_json())
    assert set(document["domains"]["mean"]) == {"source_only", "clouds", "upper_bound"}
    assert (document["frozen"], document["missing"]) == (None, result.missing)
    assert remedy in result.report.read_text(encoding="utf-8")


def test_the_quality_of_pseudo_labels_is_in_the_json_and_on_the_page(demo: DemoResult) -> None:
    found = demo.pseudo_labels
    assert found.images == 24  # all that this demo has
    assert found.before is not None
    assert 0 <= found.before <= 100
    assert found.after is not None
    assert 0 <= found.after <= 100
    assert found.after != found.before  # the teacher that is measured has a refiner
    document = json.loads((demo.out / "result.json").read_text(encoding="utf-8"))
    assert document["pseudo_labels"] == {"images": 24, "before": found.before, "after": found.after}
    page = demo.report.read_text(encoding="utf-8")
    assert demo.frozen is not None
    for arms in (demo.scratch, demo.frozen):
        found = arms.pseudo_labels
        for what, value in (("pseudo-labels before refinement", found.before), ("after refinement", found.after)):
            assert f'<span class="value">{value:.1f}</span><span class="what">{what}, mIoU, {arms.title}</span>' in page


def test_the_report_is_one_file_with_pictures(demo: DemoResult) -> None:
    page = demo.report.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") >= len(UNSEEN)
    assert page.count("data:image/png") >= 3 * len(UNSEEN)
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)  # plotly's own code names some sites
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', markup)
    for words in (*demo.header[1:], "refined", "exact", *UNSEEN):
        assert words in page


def test_saved_arms_load_and_predict(demo: DemoResult) -> None:
    picture = next((demo.out / "domains").glob(f"{UNSEEN[0]}*/images/*/*.png"))
    for arm in ("source-only", "clouds", "frozen-source-only", "frozen-clouds", "upper-bound"):
        pipeline = clouds.load(demo.out / arm / "joint")
        assert pipeline.predict(picture).labels.shape == (96, 192)
