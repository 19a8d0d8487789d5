"""The whole method in a few steps: everything that `clouds demo` leaves behind, and that the comparison is fair."""

import json
import re

import pytest

import clouds
from clouds.demo import run
from clouds.demo.domains import UNSEEN
from clouds.demo.run import DemoResult, run_demo

STEPS = 6


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("SOURCE_IMAGES", 24), ("UNSEEN_IMAGES", 4), ("GENERATED_IMAGES", 24)):
            patch.setattr(run, name, count)
        return run_demo(tmp_path_factory.mktemp("demo"), seed=1, steps=STEPS)


def test_the_table_has_every_unseen_domain_and_the_mean(demo: DemoResult) -> None:
    table = demo.table()
    assert len(table) == len(UNSEEN) + 1
    assert table[-1][0] == "mean"
    for column in (1, 2):
        values = [row[column] for row in table[:-1]]
        assert all(value is not None and 0 <= value <= 100 for value in values)
        assert table[-1][column] == pytest.approx(sum(values) / len(values))


def test_both_arms_make_the_same_number_of_optimizer_steps(demo: DemoResult) -> None:
    logs = {
        arm: [json.loads(line) for line in (demo.out / arm / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for arm in ("source-only", "clouds")
    }
    assert len(logs["source-only"]) == len(logs["clouds"]) == STEPS // 2
    assert demo.steps == STEPS
    recipes = {arm: json.loads((demo.out / arm / "recipe.json").read_text(encoding="utf-8")) for arm in logs}
    assert recipes["source-only"]["data"]["generated"] == ""
    assert recipes["clouds"]["data"]["generated"]
    # half of the batch of CLOUDS is generated: both arms see as many labelled images
    assert recipes["clouds"]["joint"]["batch_size"] == 2 * recipes["source-only"]["joint"]["batch_size"]
    for recipe in recipes.values():
        recipe["data"]["generated"] = recipe["joint"]["batch_size"] = None
    assert recipes["source-only"] == recipes["clouds"]


def test_the_json_is_the_table(demo: DemoResult) -> None:
    document = json.loads((demo.out / "result.json").read_text(encoding="utf-8"))
    assert {name: (d["source_only"], d["clouds"]) for name, d in document["domains"].items()} == {
        name: (before, after) for name, before, after in demo.table()
    }


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
    for what, value in (("pseudo-labels before refinement", found.before), ("after refinement", found.after)):
        assert f'<span class="value">{value:.1f}</span><span class="what">{what}, mIoU</span>' in page


def test_the_report_is_one_file_with_pictures(demo: DemoResult) -> None:
    page = demo.report.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") >= len(UNSEEN)
    assert page.count("data:image/png") >= 3 * len(UNSEEN)
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)  # plotly's own code names some sites
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', markup)
    for words in ("source only", "CLOUDS", "refined", "exact", *UNSEEN):
        assert words in page


def test_saved_arms_load_and_predict(demo: DemoResult) -> None:
    picture = next((demo.out / "domains").glob(f"{UNSEEN[0]}*/images/*/*.png"))
    for arm in ("source-only", "clouds"):
        pipeline = clouds.load(demo.out / arm / "joint")
        assert pipeline.predict(picture).labels.shape == (96, 192)
