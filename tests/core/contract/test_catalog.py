"""The catalog, with plugin objects made in the test."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clouds
from clouds import Component, FileWeights, Problem
from clouds.core.contract.catalog import Catalog, Entry
from clouds.core.contract.component import Kind
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.contract.plan import Plan
from clouds.core.system.errors import (
    ComponentError,
    DuplicateComponentError,
    PluginError,
    UnknownComponentError,
    WeightsError,
)
from clouds.core.weights.catalog import WEIGHTS, find_weights, published_weights


def prompter(name: str, **fields: Any) -> Component:
    return Component(name=name, kind="prompter", factory="a.b:c", summary="a test", **fields)


def plugin(**hooks: Callable[..., Any]) -> ModuleType:
    module = ModuleType("plugin")
    for name, function in hooks.items():
        setattr(module, name, clouds.hookimpl(function))
    return module


def offering(*components: Component) -> ModuleType:
    return plugin(clouds_prompters=lambda: components)


def nothing() -> list[Component]:
    return []


def fail(*_: object) -> Any:
    raise RuntimeError("out of order")


def test_components_are_found_by_name_alias_and_qualified_name() -> None:
    catalog = Catalog({"dist": offering(prompter("words", aliases=["sentences"]))})
    for name in ("words", "sentences", "dist::words", "dist::sentences"):
        assert catalog.find("prompter", name).name == "words"
    assert catalog.entry("prompter", "words").qualified_name == "dist::words"
    assert catalog.names(Kind.PROMPTER) == ["words"]
    assert catalog.names("backbone") == []
    assert catalog.broken == ()


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ComponentError, match="unknown kind 'prompt'; expected one of backbone, adapter, generator"):
        Catalog().names("prompt")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    catalog = Catalog({"dist": offering(prompter("grammar"), prompter("file"))})
    with pytest.raises(UnknownComponentError, match=r"^unknown prompter 'gramar'; did you mean 'grammar'\?$"):
        catalog.find("prompter", "gramar")
    with pytest.raises(UnknownComponentError, match="unknown prompter 'other::grammar'"):
        catalog.find("prompter", "other::grammar")
    with pytest.raises(UnknownComponentError, match="; known: file, grammar"):
        catalog.find("prompter", "zzz")
    with pytest.raises(UnknownComponentError, match="unknown head 'linear'; none is known"):
        catalog.find("head", "linear")


def test_an_unknown_name_mentions_broken_plugins() -> None:
    catalog = Catalog({"good": offering(prompter("words")), "bad": plugin(clouds_prompters=fail)})
    with pytest.raises(UnknownComponentError, match=r"broken plugins that may have had it: bad.*out of order"):
        catalog.find("prompter", "mine")


def test_a_duplicate_is_an_error_only_when_asked_for() -> None:
    shared = prompter("words")
    catalog = Catalog({"a": offering(shared, prompter("own")), "b": offering(shared)})
    assert catalog.names("prompter") == ["a::words", "b::words", "own"]
    assert catalog.find("prompter", "own").name == "own"
    assert catalog.entry("prompter", "b::words").distribution == "b"
    with pytest.raises(DuplicateComponentError, match="offered by a and b; choose one: 'a::words' or 'b::words'"):
        catalog.find("prompter", "words")


def test_an_alias_may_clash_with_a_name() -> None:
    catalog = Catalog({"a": offering(prompter("words")), "b": offering(prompter("other", aliases=["words"]))})
    with pytest.raises(
        DuplicateComponentError, match="prompter 'words' is offered by b and a; choose one: 'b::other' or 'a::words'"
    ):
        catalog.find("prompter", "words")


def test_a_distribution_offers_a_name_once() -> None:
    catalog = Catalog({"a:one": offering(prompter("words")), "a:two": offering(prompter("words"))})
    assert catalog.names("prompter") == ["words"]
    (broken,) = catalog.broken
    assert str(broken) == "a, plugin 'two': PluginError: its distribution offers prompter 'words' twice; rename one"


@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        ({"clouds_prompters": fail}, "PluginError: clouds_prompters failed: RuntimeError: out of order"),
        ({"clouds_prompters": lambda: 3}, "clouds_prompters failed: TypeError: 'int' object is not iterable"),
        ({"clouds_prompters": lambda: ["words"]}, "clouds_prompters returned 'words' (str); expected a Component of"),
        ({"clouds_heads": lambda: [prompter("words")]}, "(a prompter); expected a Component of kind head"),
        ({"clouds_prompters": lambda: [prompter("Bad Name")]}, "ComponentError: component name 'Bad Name' is not"),
        (
            {"clouds_prompter": nothing},
            "unknown hook 'clouds_prompter'; did you mean 'clouds_prompters'?; known hooks: c",
        ),
        ({"clouds_prompters": lambda surprise: []}, "Argument(s) {'surprise'} are declared in the hookimpl"),
        ({}, "PluginError: implements no hook; decorate its functions with @clouds.hookimpl"),
    ],
)
def test_a_broken_plugin_is_recorded_and_hurts_no_other(hooks: dict[str, Any], reason: str) -> None:
    bad = plugin(**hooks)
    catalog = Catalog({"a-good": offering(prompter("first")), "bad": bad, "good": offering(prompter("words"))})
    assert catalog.names("prompter") == ["first", "words"]
    assert [broken.distribution for broken in catalog.broken] == ["bad"]
    assert reason in catalog.broken[0].error
    with pytest.raises(PluginError, match=r"broken plugin: bad, plugin 'bad': "):
        Catalog({"bad": bad}, strict=True)


def test_a_misspelt_hook_disables_that_hook_alone() -> None:
    catalog = Catalog({"half": plugin(clouds_prompters=lambda: [prompter("words")], clouds_refiner=nothing)})
    assert catalog.names("prompter") == ["words"]
    (broken,) = catalog.broken
    assert "unknown hook 'clouds_refiner'; did you mean 'clouds_refiners'?; known hooks: clouds_" in broken.error
    with pytest.raises(PluginError, match="broken plugin: half, plugin 'half': PluginError: unknown hook"):
        Catalog({"half": plugin(clouds_refiner=nothing)}, strict=True)


def test_what_a_broken_hook_yielded_before_it_raised_is_dropped() -> None:
    def half_way() -> Any:
        yield prompter("first")
        raise RuntimeError

    catalog = Catalog({"bad": plugin(clouds_prompters=half_way, clouds_heads=nothing)})
    assert catalog.names("prompter") == []
    assert catalog.broken[0].error == "PluginError: clouds_prompters failed: RuntimeError:"


# -- patterned names ---------------------------------------------------------------------------------------------------


def resolving(*answers: Any) -> ModuleType:
    """A plugin that answers to `"mine:..."`; an answer may be a function of the name."""
    replies = iter(answers)

    def clouds_resolve(kind: Kind, name: str) -> Component | None:
        if not name.startswith("mine:"):
            return None
        reply = next(replies)
        return reply(name) if callable(reply) else reply

    return plugin(clouds_resolve=clouds_resolve)


def test_patterned_names_are_resolved_when_asked_for() -> None:
    catalog = Catalog({"dist": resolving(prompter, prompter)})
    assert catalog.names("prompter") == []
    assert catalog.find("prompter", "mine:words").name == "mine:words"
    assert catalog.find("prompter", "dist::mine:words").name == "mine:words"
    with pytest.raises(UnknownComponentError, match="unknown prompter 'other:words'"):
        catalog.find("prompter", "other:words")


def test_listed_components_come_before_patterns() -> None:
    catalog = Catalog({"a": offering(prompter("mine:words")), "b": resolving()})
    assert catalog.entry("prompter", "mine:words").distribution == "a"


def test_two_answers_are_a_duplicate() -> None:
    catalog = Catalog({"a": resolving(prompter, prompter), "b": resolving(prompter, prompter)})
    with pytest.raises(DuplicateComponentError, match="choose one: 'a::mine:words' or 'b::mine:words'"):
        catalog.find("prompter", "mine:words")
    assert catalog.entry("prompter", "b::mine:words").distribution == "b"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fail, "clouds_resolve failed: RuntimeError: out of order"),
        ("garbage", "clouds_resolve returned 'garbage' (str); expected a Component of kind prompter"),
        (prompter("another"), "clouds_resolve returned 'another' for the name 'mine:words'; expected that name"),
    ],
)
def test_a_wrong_answer_is_recorded(answer: Any, reason: str) -> None:
    catalog = Catalog({"bad": resolving(answer), "good": resolving(prompter)})
    assert catalog.entry("prompter", "mine:words").distribution == "good"
    assert reason in catalog.broken[0].error


# -- checks of plans ---------------------------------------------------------------------------------------------------


def test_every_plugin_may_find_problems() -> None:
    problem = Problem(part="labels", message="too many")
    catalog = Catalog(
        {
            "a": plugin(clouds_check_plan=lambda plan: [problem]),
            "b": plugin(clouds_check_plan=fail),
            "c": plugin(clouds_check_plan=lambda plan: ["not a problem", problem]),
        }
    )
    assert catalog.check_plan(Plan(parts={}, labels=CITYSCAPES)) == [problem, problem]
    raised, garbage = catalog.broken
    assert raised.error == "PluginError: clouds_check_plan failed: RuntimeError: out of order"
    assert garbage.error == "PluginError: clouds_check_plan returned 'not a problem'; expected a clouds.Problem"


# -- installed entry points --------------------------------------------------------------------------------------------


class Point(EntryPoint):
    """An entry point of a distribution that is not on disk."""

    def __init__(self, distribution: str, name: str, offers: str) -> None:
        super().__init__(name=name, value=f"{distribution}.plugin", group="clouds")
        vars(self).update(dist=SimpleNamespace(name=distribution, version="1.0"), offers=offers)

    def load(self) -> ModuleType:
        if self.offers == "broken":
            raise ImportError(f"{self.dist.name} does not import")
        return offering(prompter(self.offers))


POINTS = [
    Point("alpha", "main", "words"),
    Point("beta", "main", "words"),
    Point("beta", "extra", "broken"),
    Point("Gamma_Plugin", "main", "own"),
    Point("delta", "main", "broken"),
]


def state(catalog: Catalog) -> tuple[list[Entry], list[str]]:
    return catalog.entries("prompter"), [str(broken) for broken in catalog.broken]


@given(st.permutations(POINTS))
def test_the_order_of_installation_does_not_matter(points: list[EntryPoint]) -> None:
    catalog = Catalog(installed=points)
    assert state(catalog) == state(Catalog(installed=POINTS))
    assert catalog.names("prompter") == ["alpha::words", "beta::words", "own"]


@given(st.sets(st.sampled_from(["alpha", "Beta", "beta:main", "gamma-plugin", "delta", "missing"])))
def test_a_subset_can_be_loaded(only: set[str]) -> None:
    catalog = Catalog(installed=POINTS, only=only)
    offered = {entry.distribution for entry in catalog.entries("prompter")}
    wanted = {part.partition(":")[0].lower() for part in only}
    assert offered == wanted & {"alpha", "beta", "gamma-plugin"}
    missing = [broken for broken in catalog.broken if "no such plugin is installed" in broken.error]
    assert [broken.distribution for broken in missing] == (["missing"] if "missing" in only else [])
    assert any(broken.name == "extra" for broken in catalog.broken) == ("Beta" in only)


def test_an_entry_point_without_distribution_is_unknown() -> None:
    point = EntryPoint(name="main", value="nowhere_at_all", group="clouds")
    (broken,) = Catalog(installed=[point]).broken
    assert str(broken) == ("unknown, plugin 'main': ModuleNotFoundError: No module named 'nowhere_at_all'")


def test_built_ins_use_the_same_hooks() -> None:
    catalog = clouds.catalog()
    assert {"tiny"} <= set(catalog.names("backbone"))
    assert {"linear", "mask2former"} <= set(catalog.names("head"))
    assert {entry.distribution for entry in catalog.entries("head")} >= {"clouds-dgss"}
    assert catalog.find("backbone", "timm:convnext_atto").options == {"model": "convnext_atto"}


def test_listing_imports_no_torch() -> None:
    program = "import clouds, sys; [clouds.catalog().names(k) for k in clouds.Kind]; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# -- published weights -------------------------------------------------------------------------------------------------


def file_weights(name: str, sha256: str = "0" * 64) -> FileWeights:
    return FileWeights(name=name, licence="MIT", url=f"https://example.org/{name}.pth", sha256=sha256, size=1)


def listing(*weights: object) -> ModuleType:
    return plugin(clouds_weights=lambda: weights)


def test_weights_are_found_by_name_and_qualified_name() -> None:
    ours = file_weights("net")
    catalog = Catalog({"dist": listing(ours)})
    assert catalog.weights() == {"dist::net": ours}
    assert published_weights(catalog) == {"net": ours}
    assert find_weights("net", catalog) is find_weights("dist::net", catalog) is ours


def test_weights_of_one_name_are_an_error_only_when_asked_for() -> None:
    first, second, own = file_weights("net", "1" * 64), file_weights("net", "2" * 64), file_weights("own")
    catalog = Catalog({"a": listing(first, own), "b": listing(second)})
    assert published_weights(catalog) == {"a::net": first, "own": own, "b::net": second}
    assert find_weights("own", catalog) is own
    assert find_weights("b::net", catalog) is second
    match = "weights 'net' are offered by a and b; choose one: 'a::net' or 'b::net'"
    with pytest.raises(WeightsError, match=match):
        find_weights("net", catalog)


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (fail, "PluginError: clouds_weights failed: RuntimeError: out of order"),
        (lambda: ["net"], "clouds_weights returned 'net'; expected FileWeights, HubWeights or PageWeights"),
        (lambda: [file_weights("two"), file_weights("two", "1" * 64)], "offers weights 'two' twice; rename one"),
    ],
)
def test_a_broken_list_of_weights_hurts_no_other(hook: Callable[..., Any], reason: str) -> None:
    ours, bad = file_weights("net"), plugin(clouds_weights=hook)
    catalog = Catalog({"a-bad": bad, "good": listing(ours)})
    assert find_weights("net", catalog) is ours
    assert [broken.distribution for broken in catalog.broken] == ["a-bad"]
    assert reason in catalog.broken[0].error
    with pytest.raises(WeightsError, match=r"unknown weights 'mine'; .*broken plugins that may have had it: a-bad"):
        find_weights("mine", catalog)
    with pytest.raises(PluginError, match="broken plugin: a-bad"):
        Catalog({"a-bad": bad}, strict=True).weights()


def test_unknown_weights_are_answered_with_the_nearest_or_with_what_brings_them() -> None:
    apart = plugin(clouds_install_command=lambda kind, name: "pip install more" if name == "other" else None)
    catalog = Catalog({"dist": listing(file_weights("net")), "b": apart})
    with pytest.raises(WeightsError, match=r"^unknown weights 'nets'; did you mean 'net'\?$"):
        find_weights("nets", catalog)
    with pytest.raises(WeightsError, match=r"^unknown weights 'other'; they come with pip install more$"):
        find_weights("other", catalog)


def test_weights_of_built_ins_come_first() -> None:
    assert list(published_weights())[: len(WEIGHTS)] == list(WEIGHTS)
    assert {"mobile-sam", "sam2"} & set(WEIGHTS) == set()
