import json

import pytest
from cli_helpers import Run, assert_one_line

import clouds
from clouds.core.contract.catalog import Catalog


class Extra:
    """A plugin with a name that built-ins have in another kind, a fixed option, and a broken hook."""

    @clouds.hookimpl
    def clouds_refiners(self) -> list[clouds.Component]:
        component = clouds.Component(
            name="linear",
            kind="refiner",
            factory="clouds.core.system.errors:did_you_mean",
            summary="a refiner called like a head",
            aliases="straight",
            requires=["no-such-distribution>=2"],
            options={"known": "x"},
        )
        return [component]

    @clouds.hookimpl
    def clouds_backbones(self) -> list[clouds.Component]:
        raise RuntimeError("the moon is in the wrong house")


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog of the process has one more plugin."""
    from clouds.heads import components as heads

    catalog = Catalog({"clouds-dgss:heads": heads, "extra": Extra()})
    monkeypatch.setattr(Catalog, "from_environment", lambda: catalog)


def test_list_shows_names_summaries_and_owners(run: Run) -> None:
    out = run("list").out
    for kind in clouds.Kind:
        for entry in clouds.catalog().entries(kind):
            line = next(line for line in out.splitlines() if line.split()[:2] == [kind, entry.component.name])
            assert entry.component.summary in line
            assert f"{entry.distribution} {entry.version}" in line


@pytest.mark.parametrize("word", ["head", "heads"])
def test_list_takes_one_kind(run: Run, word: str) -> None:
    document = json.loads(run("list", word, "--json").out)
    assert [one["name"] for one in document["components"]] == clouds.catalog().names("head")
    assert {one["hook"] for one in document["components"]} == {"clouds_heads"}


@pytest.mark.usefixtures("extra")
def test_list_shows_broken_plugins(run: Run) -> None:
    document = json.loads(run("list", "--json").out)
    (broken,) = document["broken"]
    assert (broken["name"], broken["distribution"]) == ("extra", "extra")
    assert "clouds_backbones failed: RuntimeError: the moon" in broken["error"]
    assert "clouds_backbones failed: RuntimeError: the moon" in run("list").out


def test_info_holds_the_contract(run: Run) -> None:
    document = json.loads(run("info", "tiny", "--json").out)
    component = clouds.catalog().find("backbone", "tiny")
    assert document["summary"] == component.summary
    assert document["provides"] == sorted(component.provides)
    assert document["options"][0] == {
        "name": "dims",
        "type": "tuple[int, ...]",
        "required": False,
        "default": [32, 64, 128, 256],
    }
    assert "ConvNeXt" in document["documentation"]
    page = run("info", "tiny").out
    assert "dims: tuple[int, ...] = (32, 64, 128, 256)" in page
    assert document["documentation"] in page


def test_info_follows_patterns(run: Run) -> None:
    document = json.loads(run("info", "timm:convnext_atto", "--json").out)
    assert (document["kind"], document["fixed"]) == ("backbone", {"model": "convnext_atto"})


@pytest.mark.usefixtures("extra")
def test_info_shows_what_is_required_and_fixed(run: Run) -> None:
    document = json.loads(run("info", "straight", "--json").out)
    assert document["requires"] == {"no-such-distribution>=2": "pip install 'no-such-distribution>=2'"}
    assert document["options"] == [{"name": "word", "type": "str", "required": True, "default": None}]
    page = run("info", "straight").out
    assert "no-such-distribution>=2 (pip install 'no-such-distribution>=2')" in page
    assert "known='x'" in page
    assert "word: str (required)" in page


@pytest.mark.usefixtures("extra")
def test_info_asks_which_of_two_kinds(run: Run) -> None:
    assert_one_line(run("info", "linear"), "components of several kinds are named 'linear'", "--kind refiner")
    assert run("info", "linear", "--kind", "head").out.startswith("head linear: ")


@pytest.mark.usefixtures("extra")
def test_info_of_an_unknown_name_mentions_broken_plugins(run: Run) -> None:
    assert_one_line(run("info", "liner"), "unknown component 'liner'; did you mean 'linear'?", "the moon is in")


@pytest.mark.parametrize(
    ("word", "name", "summary"),
    [
        ("label-spaces", "ade20k-150", "150 classes"),
        ("datasets", "shift", "Sun et al., SHIFT, CVPR 2022"),
        ("recipes", "gta-r50", "As gta-convnext-l, on frozen CLIP ResNet-50."),
        ("trackers", "tensorboard", None),
        ("losses", "feature-distance", "keeps the features of things near those of the untrained backbone (DAFormer)"),
        ("loss", "feature-distance", None),
        ("samplers", "rare-classes", None),
        ("augmentations", "randomize", None),
    ],
)
def test_list_shows_what_is_known_by_name(run: Run, word: str, name: str, summary: str | None) -> None:
    row = next(row for row in json.loads(run("list", word, "--json").out) if row["name"] == name)
    assert row["distribution"] == "clouds-dgss"
    assert summary in (None, row["summary"])
    assert name in run("list", word).out


def test_list_shows_offers_of_plugins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        @clouds.hookimpl
        def clouds_label_spaces(self) -> list[clouds.Offer]:
            return [clouds.Offer("harbour", "harbour.labels:SPACE", "12 classes of a harbour")]

    catalog = Catalog({"harbour-plugin": Plugin()})
    monkeypatch.setattr(Catalog, "from_environment", lambda: catalog)
    row = {"name": "harbour", "summary": "12 classes of a harbour", "distribution": "harbour-plugin"}
    assert row in json.loads(run("list", "label-spaces", "--json").out)
