import html
import json
import re
from statistics import stdev

import pytest
from comparison_helpers import scored_run, scores, two_arms

from clouds.core.system.errors import ConfigError
from clouds.evaluation.arms import group_runs
from clouds.evaluation.comparison import Comparison
from clouds.evaluation.scores import Evaluation, ScoredRun
from clouds.evaluation.spread import Spread


def names(runs: list[ScoredRun], *varies: str) -> list[list[str]]:
    return [[run.name for run in arm.runs] for arm in group_runs(runs, varies)]


def test_a_spread_is_that_of_a_sample() -> None:
    assert Spread.over([1.0, 3.0]) == Spread(2.0, 2**0.5)
    assert Spread.over([1.0]) == Spread(1.0, None)
    assert Spread.over([]) is Spread.over([1.0, None]) is None
    assert [str(Spread(61.25, 0.349)), str(Spread(61.25))] == ["61.2 ± 0.3", "61.2"]


def test_runs_that_differ_in_the_seed_alone_are_one_arm() -> None:
    assert names(two_arms()) == [["base-0", "base-1"], ["faster-s0", "faster-s1"]]
    assert [arm.name for arm in group_runs(two_arms(), ())] == ["base", "faster"]


def test_settings_that_change_no_step_may_differ_within_an_arm() -> None:
    runs = [scored_run("a", (1, 1, 1)), scored_run("b", (1, 1, 1), seed=1, data={"workers": 4})]
    assert names(runs) == [["a"], ["b"]]
    assert names(runs, "data.workers") == [["a", "b"]]
    comparison = Comparison.from_runs(runs, varies=["data.workers"])
    assert comparison.differences == {"data.workers": [[0, 4]]}
    assert comparison.arms[0].name == "a, b"


def test_a_component_by_name_is_one_with_only_a_name() -> None:
    runs = [scored_run("a", (1, 1, 1)), scored_run("b", (1, 1, 1), seed=1, model={"head": {"name": "linear"}})]
    assert names(runs) == [["a", "b"]]


def test_a_second_run_of_a_recipe_and_seed_starts_another_arm() -> None:
    """It may be a run of other code."""
    runs = [scored_run(f"{code}-{seed}", (1, 1, 1), seed=seed) for code in ("old", "new") for seed in (0, 1)]
    assert [(arm.name, arm.seeds) for arm in group_runs(runs, ())] == [("old", (0, 1)), ("new", (0, 1))]


def test_figures_are_means_and_deviations_over_seeds() -> None:
    base, faster = Comparison.from_runs(two_arms()).arms
    document = json.loads(Comparison.from_runs(two_arms()).to_json())
    one, two = document["arms"]
    assert (one["step"], two["step"]) == (20, 20)  # the last step that both seeds were evaluated at
    assert one["miou"] == {"mean": 56.0, "deviation": pytest.approx(stdev([55, 57]))}
    assert one["per_domain"]["night:val"] == {"mean": 51.0, "deviation": pytest.approx(stdev([50, 52]))}
    assert one["per_class"]["night:val"] == {"road": one["per_domain"]["night:val"], "sky": None, "<car>": None}
    assert one["best"]["mean"] == (55 + 61) / 2
    assert [point["step"] for point in one["curve"]] == [10, 20]
    assert [point["step"] for point in two["curve"]] == [20]
    assert two["gain"] == {"mean": 7.0, "deviation": pytest.approx(stdev([60 - 55, 66 - 57]))}
    assert [run["miou"] for run in two["runs"]] == [60.0, 66.0]
    assert document["differences"] == {"optimizer.lr": {"base": [0.1], "faster": [0.2]}}
    assert (base.seeds, faster.seeds) == ((0, 1), (0, 1))


def test_a_gain_over_other_seeds_is_that_of_the_means() -> None:
    base, other = group_runs([scored_run("a", (1, 50, 50)), scored_run("b", (1, 53, 53), seed=7, extra=1)], ())
    assert other.gain(base) == Spread(3.0, None)


def test_text() -> None:
    lines = str(Comparison.from_runs(two_arms())).splitlines()
    assert lines[0] == (
        "mIoU in percent; at the last evaluation, mean ± standard deviation over seeds, gain over base, best: the "
        "highest mean of each run, chosen on these sets"
    )
    table = [re.split(r"\s{2,}", line.strip()) for line in lines if line]
    assert ["arm", "seeds", "step", "day:val", "night:val", "mean", "best", "gain"] in table
    assert ["base", "0, 1", "20", "61.0 ± 1.4", "51.0 ± 1.4", "56.0 ± 1.4", "58.0 ± 4.2", "–"] in table
    assert ["faster", "0, 1", "20", "71.0 ± 1.4", "55.0 ± 7.1", "63.0 ± 4.2", "63.0 ± 4.2", "7.0 ± 2.8"] in table
    assert ["setting", "base", "faster"] in table
    assert table[-1] == ["optimizer.lr", "0.1", "0.2"]


def test_different_numbers_of_steps_are_pointed_out() -> None:
    runs = [scored_run("long", (40, 50, 50)), scored_run("short", (20, 60, 60), other="x")]
    warning = "the arms made different numbers of steps: long 40, short 20"
    assert warning in str(Comparison.from_runs(runs)).splitlines()
    assert warning in Comparison.from_runs(runs).to_html()


def test_recipes_that_do_not_differ() -> None:
    assert str(Comparison.from_runs(two_arms()[:2])).endswith("the recipes do not differ, the seed aside")


def test_html() -> None:
    page = Comparison.from_runs(two_arms()).to_html()
    assert "<td" in page
    assert "61.0 ± 1.4" in page
    assert "&lt;car&gt;" in page
    assert "<car>" not in page.replace("\\u003ccar\\u003e", "")
    assert page.count("newPlot(") >= 2
    assert "optimizer.lr" in html.unescape(page)
    without_plotly = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="', without_plotly)  # nothing comes from elsewhere


def test_a_run_without_an_evaluation_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^b: has no evaluation with scores .*; train with data\.evaluation and"):
        Comparison.from_runs([scored_run("a", (1, 1, 1)), scored_run("b")])


def test_runs_that_scored_different_sets_are_named() -> None:
    one, two = scored_run("a", (1, 1, 1)), scored_run("b", (1, 1, 1))
    less = ScoredRun(
        name="b", recipe=two.recipe, evaluations=[Evaluation(step=9, domains={"x": scores(1, 1)["day:val"]})]
    )
    with pytest.raises(ConfigError, match=r"^b, step 9: scored x, but a scored day:val, night:val; compare runs that"):
        Comparison.from_runs([one, less])
    domains = scores(1, 1)
    domains["day:val"].iou.pop("sky")
    other = ScoredRun(name="b", recipe=two.recipe, evaluations=[Evaluation(step=9, domains=domains)])
    message = r"^b, step 9: scored day:val \(3 images, 2 classes\), but a scored day:val \(3 images, 3 classes\); com"
    with pytest.raises(ConfigError, match=message):
        Comparison.from_runs([one, other])


def test_runs_that_are_no_runs_of_their_own_are_named() -> None:
    with pytest.raises(ConfigError, match="compare: expected at least one run"):
        Comparison.from_runs([])
    with pytest.raises(ConfigError, match=r"^a is listed twice; list each run once"):
        Comparison.from_runs([scored_run("a", (1, 1, 1)), scored_run("a", (1, 1, 1))])


def test_seeds_that_were_never_evaluated_at_the_same_step_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^a, b: differ only in the seed, but were never evaluated at the same step"):
        Comparison.from_runs([scored_run("a", (10, 1, 1)), scored_run("b", (15, 1, 1), seed=1)])
