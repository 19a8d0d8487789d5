"""Plans: every fault at once, JSON and back, and no torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clouds
from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Component, Kind
from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.contract.plan import Part, Plan, PlanError, Problem
from clouds.core.contract.planner import make_plan
from clouds.core.system.errors import WeightsError

PYRAMID = ("res2", "res3", "res4", "res5")


class Vocabulary:
    """Something that JSON has no word for."""


def backbone(*, width: int = 8, pretrained: bool = True, taps: tuple[int, ...] = (1, 2)) -> None: ...
def head(features: Any, labels: LabelSpace, *, queries: int = 100, words: Any = None) -> None: ...
def prompter(*, path: str) -> None: ...


def component(kind: str, name: str, function: Callable[..., Any], **fields: Any) -> Component:
    factory = f"{__name__}:{function.__name__}"
    return Component(kind=kind, name=name, factory=factory, summary="a test", **fields)


class Plugin:
    @clouds.hookimpl
    def clouds_backbones(self) -> list[Component]:
        needs = {
            "surely-not-installed>=2": "pip install 'surely-not-installed[gpu]'",
            "attrs<1": "pip install 'attrs<1'",
        }
        return [
            component("backbone", "plain", backbone, provides=PYRAMID),
            component("backbone", "speaking", backbone, provides=(*PYRAMID, "text-encoder")),
            component("backbone", "heavy", backbone, provides=PYRAMID, requires=needs),
            component("backbone", "light", backbone, provides=PYRAMID, requires=["attrs", "cattrs>=1"]),
        ]

    @clouds.hookimpl
    def clouds_heads(self) -> list[Component]:
        return [
            component("head", "masks", head, needs=PYRAMID),
            component("head", "texts", head, needs=("res2", "text-encoder")),
        ]

    @clouds.hookimpl
    def clouds_prompters(self) -> list[Component]:
        return [component("prompter", "lines", prompter)]


CATALOG = Catalog({"dist": Plugin()})
GOOD = {"backbone": "plain", "head": "masks", "catalog": CATALOG}


def problems(**arguments: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        make_plan(**{**GOOD, **arguments})
    assert str(caught.value).count("\n") >= len(caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def test_a_plan_holds_every_option_with_its_effective_value() -> None:
    plan = make_plan(**GOOD, pretrained=False, prompter={"name": "dist::lines", "path": "a.txt"})
    assert list(plan.parts) == [Kind.BACKBONE, Kind.HEAD, Kind.PROMPTER]
    assert plan.parts[Kind.BACKBONE].options == {"width": 8, "pretrained": False, "taps": [1, 2]}
    assert plan.parts[Kind.PROMPTER].options == {"path": "a.txt"}
    assert plan.parts[Kind.HEAD].qualified_name == "dist::masks"
    own = make_plan(**{**GOOD, "backbone": {"name": "plain", "pretrained": True}}, pretrained=False)
    assert own.parts[Kind.BACKBONE].options["pretrained"] is True


def test_a_plan_reads_well() -> None:
    text = str(make_plan(**GOOD, device="cpu", dtype="torch.bfloat16"))
    assert text == (
        "labels: cityscapes (19 classes)\n"
        "backbone: plain(width=8, pretrained=True, taps=[1, 2])  [dist]\n"
        "head: masks(queries=100, words=None)  [dist]\n"
        "pretrained: True, device: cpu, dtype: bfloat16"
    )


def test_three_faults_are_reported_together() -> None:
    found = problems(backbone={"name": "plane"}, head={"name": "masks", "querys": 3}, labels="citiscapes")
    assert found == [
        "backbone: unknown backbone 'plane'; did you mean 'plain'?",
        "head: masks: unknown option 'querys'; did you mean 'queries'?; "
        "the signature is masks(*, queries: int = 100, words: Any = None)",
        "labels: unknown label space 'citiscapes'; did you mean 'cityscapes'? "
        '-> classes of your own: ["one", "two"], a table { names = [...], ... }, or a TOML file of one',
    ]


def test_the_error_numbers_its_problems() -> None:
    with pytest.raises(PlanError, match=r"^the plan has 2 problems:\n  1. device: .*\n  2. dtype: "):
        make_plan(**GOOD, device="gpu", dtype="half")
    with pytest.raises(PlanError, match=r"^the plan has 1 problem:\n  1. device: "):
        make_plan(**GOOD, device="gpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": None}, "backbone: is None, but every pipeline has one -> clouds list backbone"),
        ({"head": None}, "head: is None, but every pipeline has one -> clouds list head"),
        ({"head": {"queries": 3}}, "head: a mapping needs a 'name', got keys ['queries'] -> clouds list head"),
        (
            {"refiner": 3},
            "refiner: expected a name, a mapping with 'name', or a Refiner; got int -> clouds list refiner",
        ),
        (
            {"head": {"name": "masks", "queries": "many"}},
            "head: masks: option queries='many' is not of type int; "
            "the signature is masks(*, queries: int = 100, words: Any = None)",
        ),
        ({"prompter": "lines"}, "prompter: lines: option 'path' is required; the signature is lines(*, path: str)"),
        (
            {"head": {"name": "masks", "words": Vocabulary()}},
            "head: masks: option 'words': Vocabulary is not a plain value -> pass a ready module as head=",
        ),
        (
            {"head": "texts"},
            "head: texts needs text-encoder from the backbone, but plain provides res2, res3, res4, res5 "
            "-> choose another backbone or head",
        ),
        ({"device": "cuda:first"}, "device: unknown device 'cuda:first'; expected auto, cpu, cuda, cuda:N or mps"),
        ({"dtype": "float61"}, "dtype: unknown dtype 'float61'; did you mean 'float16'?"),
    ],
)
def test_each_fault_has_its_message(arguments: dict[str, Any], message: str) -> None:
    assert problems(**arguments) == [message]


@pytest.mark.usefixtures("unchecked_types")
def test_labels_of_another_type_are_a_fault() -> None:
    assert problems(labels=19.5) == [
        "labels: expected a label space's name, class names, their number, a table or a TOML file, got float -> "
        'classes of your own: ["one", "two"], a table { names = [...], ... }, or a TOML file of one'
    ]


def test_missing_distributions_come_with_the_command() -> None:
    missing, old = problems(backbone="heavy")
    assert missing == (
        "backbone: heavy: needs surely-not-installed>=2, which is not installed "
        "-> pip install 'surely-not-installed[gpu]'"
    )
    assert old.startswith("backbone: heavy: needs attrs<1, but 2")
    assert old.endswith(" is installed -> pip install 'attrs<1'")
    assert make_plan(**{**GOOD, "backbone": "light"}).parts[Kind.BACKBONE].name == "light"


def test_parts_that_fit_make_a_plan() -> None:
    assert make_plan(backbone="speaking", head="texts", catalog=CATALOG).parts[Kind.HEAD].needs == (
        "res2",
        "text-encoder",
    )


def test_plugins_may_find_problems() -> None:
    module = ModuleType("checker")
    module.clouds_check_plan = clouds.hookimpl(  # pyright: ignore[reportAttributeAccessIssue]
        lambda plan: [Problem(Kind.HEAD, f"at most 2 classes, not {len(plan.labels)}")]
    )
    strict = Catalog({"dist": Plugin(), "checker": module})
    assert problems(catalog=strict) == ["head: at most 2 classes, not 19"]


def test_options_change_what_parts_provide_and_need() -> None:
    plan = clouds.plan(backbone="tiny", head={"name": "mask2former", "geometric_ensemble": True})
    assert {"text-encoder", "mask-pooler"} <= set(plan.parts[Kind.HEAD].needs)
    assert "text-encoder" not in clouds.plan(backbone="tiny", head="mask2former").parts[Kind.HEAD].needs
    with pytest.raises(PlanError, match="mask2former needs mask-pooler, text-encoder from the backbone, but timm"):
        clouds.plan(backbone="timm:resnet18", head={"name": "mask2former", "geometric_ensemble": True})


def test_more_classes_than_queries_are_fine() -> None:
    """A query is one segment of an image, and no image has all classes of a large label space."""
    many = LabelSpace.from_names([f"class {i}" for i in range(200)], name="many")
    assert len(clouds.plan(backbone="tiny", head="mask2former", labels=many).labels) == 200


def test_ready_modules_are_checked_by_what_they_can_do() -> None:
    from clouds.core.contract.interfaces import Backbone, FeatureSpec, TextEncoder

    class Ready(Backbone, TextEncoder):
        def __init__(self) -> None:
            specs = {f"res{i}": FeatureSpec(channels=1, stride=2**i) for i in range(2, 6)}
            super().__init__(features=specs, mean=(0, 0, 0), std=(1, 1, 1))

        def forward(self, images: Any) -> Any: ...
        def embed_text(self, texts: Any) -> Any: ...

    plan = make_plan(backbone=Ready(), head="texts", catalog=CATALOG)
    assert plan.parts[Kind.BACKBONE].ready.endswith("Ready")
    assert str(plan.parts[Kind.BACKBONE]).startswith("backbone: ready module test_plan:")


# -- JSON --------------------------------------------------------------------------------------------------------------

words = st.text(min_size=1, max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    return Part(
        kind=draw(st.sampled_from(Kind)),
        name=draw(words),
        options=draw(st.dictionaries(words, plain, max_size=4)),
        distribution=draw(words),
        version=draw(words),
        provides=draw(st.sets(st.sampled_from(PYRAMID))),
        needs=draw(st.sets(st.sampled_from(PYRAMID))),
        ready=draw(st.just("") | words),
    )


@st.composite
def label_spaces(draw: st.DrawFn) -> LabelSpace:
    names = draw(st.lists(words, min_size=1, max_size=6, unique=True))
    count = len(names)
    return LabelSpace.from_names(
        names,
        name=draw(words),
        synonyms=draw(st.lists(st.lists(words, min_size=1, max_size=3), min_size=count, max_size=count)),
        ids=draw(st.lists(st.integers(-1, 300), min_size=count, max_size=count, unique=True)),
        ignore=draw(st.integers(count, 255)),
    )


@given(st.lists(parts(), max_size=5), label_spaces(), st.booleans(), st.sampled_from([None, "bfloat16"]))
def test_a_plan_survives_json(some: list[Part], labels: LabelSpace, pretrained: bool, dtype: str | None) -> None:
    plan = Plan(parts={part.kind: part for part in some}, labels=labels, pretrained=pretrained, dtype=dtype)
    assert Plan.from_json(plan.to_json()) == plan


def damaged(**changes: Any) -> str:
    document = json.loads(make_plan(**GOOD).to_json())
    return json.dumps({**document, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "this is not a plan: Expecting value"),
        ("[" * 100_000, "this is not a plan: the JSON is nested too deep"),
        ("[]", "this is not a plan: expected a JSON object with a whole number as 'format'"),
        ("{}", "this is not a plan: expected a JSON object with a whole number as 'format'"),
        (damaged(format=True), "this is not a plan: expected a JSON object with a whole number as 'format'"),
        (
            damaged(format=99, clouds="7.5"),
            r"the plan has format 99 of clouds 7\.5; clouds \S+ reads formats 1 to 3: install the newer version",
        ),
        (
            json.dumps({"format": 3}),
            r"a plan that clouds \S+ reads: .*clouds.* \(it was written by clouds an earlier version\)",
        ),
        (
            damaged(parts=[{"kind": "hat"}], clouds="7.5"),
            r"a plan that clouds \S+ reads: unknown kind 'hat'.* @ \$\.parts\[0\]\.kind \(.* written by clouds 7\.5\)",
        ),
        (damaged(parts=[{"hat": 1}]), r"field missing @ \$\.parts\[0\]\.kind; extra fields found \(hat\) @ \$\.parts"),
        (damaged(parts=[{"kind": "head", "options": None}]), r"expected a mapping @ \$\.parts\[0\]\.options"),
        (damaged(parts=[{"kind": "head"}, {"kind": "head"}]), "this is not a plan: it has two parts of one kind"),
        (damaged(parts=[{"kind": "head", "credentials": {"key": "K"}}]), "or a part with credentials"),
        (damaged(labels={**CITYSCAPES.to_dict(), "names": []}), r"label space .* has 0 classes.* @ \$\.labels"),
        (damaged(labels={**CITYSCAPES.to_dict(), "palette": [[1e999, 0, 0]] * 19}), r"inf is not of type int @"),
        (damaged(dtype="float64"), r"float64 not in literal.* @ \$\.dtype"),
        (damaged(adapter=None), r"extra fields found \(adapter\)"),
    ],
)
def test_what_is_not_a_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("names", "abc", r"tuple\[str, \.\.\.\] @ \$\.labels\.names"),
        ("names", {"a": 1}, r"tuple\[str, \.\.\.\] @ \$\.labels\.names"),
        ("synonyms", "abc", r"tuple\[tuple\[str, \.\.\.\], \.\.\.\] @ \$\.labels\.synonyms"),
        ("synonyms", [["a"], "b", ["c"]], r"tuple\[str, \.\.\.\] @ \$\.labels\.synonyms\[1\]"),
        ("palette", ["abc"] * 3, r"tuple\[int, int, int\] @ \$\.labels\.palette\[2\]"),
        ("ids", "012", r"tuple\[int, \.\.\.\] @ \$\.labels\.ids"),
        ("things", "abc", r"tuple\[bool, \.\.\.\] @ \$\.labels\.things"),
    ],
)
@pytest.mark.parametrize("space", ["labels", "trained_labels"])
def test_a_list_of_a_plan_that_is_none_is_named(space: str, key: str, value: object, wanted: str) -> None:
    document = json.loads(make_plan(backbone="tiny", head="linear", labels=["a", "b", "c"]).to_json())
    document[space] = {**document["labels"], key: value}
    with pytest.raises(WeightsError, match=f"is not of type {wanted.replace('labels', space)}"):
        Plan.from_json(json.dumps(document))


@pytest.mark.parametrize("key", ["provides", "needs"])
def test_capabilities_of_a_part_are_a_list(key: str) -> None:
    document = json.loads(make_plan(backbone="tiny", head="linear").to_json())
    document["parts"][0][key] = "res2"
    with pytest.raises(WeightsError, match=rf"'res2' is not of type tuple\[str, \.\.\.\] @ \$\.parts\[0\]\.{key}"):
        Plan.from_json(json.dumps(document))


def test_a_plan_of_the_first_format_is_read() -> None:
    plan = make_plan(**GOOD)
    document = json.loads(plan.to_json())
    assert document.pop("clouds") == version("clouds-dgss")
    assert Plan.from_json(json.dumps({**document, "format": 1})) == plan


def test_planning_imports_no_torch() -> None:
    program = (
        "import sys, clouds\n"
        "print(clouds.plan(backbone='tiny', head='mask2former', labels='cityscapes'))\n"
        "try: clouds.plan(backbone='tyny', head={'name': 'linear', 'widht': 3}, device='gpu')\n"
        "except clouds.PlanError as error: assert len(error.problems) == 3, error\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
