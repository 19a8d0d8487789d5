"""`check_component`, `check_by_name` and `component_tests` fail on one broken clause, and say which."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clouds
from clouds.testing import ContractError, check_by_name, check_component, component_tests

MODULE = "presets_under_test"
PYRAMID = ["res2", "res3", "res4", "res5"]
IMPORTS = """
import torch
from torch import nn
import clouds
"""
BACKBONE = """
class Thin(clouds.Backbone):
    def __init__(self, scale):
        specs = {f"res{i}": clouds.FeatureSpec(channels=1, stride=2**i) for i in range(2, 6)}
        super().__init__(features=specs, mean=(0, 0, 0), std=(1, 1, 1))
        self.register_buffer("scale", scale, persistent=False)
    def forward(self, images):
        levels = {f"res{i}": images[:, :1, :: 2**i, :: 2**i] * self.scale for i in range(2, 6)}
        return clouds.Features(**levels)
class Words(Thin, clouds.TextEncoder):
    def embed_text(self, texts):
        return torch.zeros(len(texts), 2)
"""


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an importable module of presets."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / f"{MODULE}.py"
    sys.modules.pop(MODULE, None)


def component(kind: str = "prompter", **fields: object) -> clouds.Component:
    return clouds.Component(
        **{"name": "mine", "kind": kind, "factory": f"{MODULE}:mine", "summary": "a test", **fields}
    )


def catalog(*components: clouds.Component) -> clouds.Catalog:
    class Plugin:
        @clouds.hookimpl
        def clouds_prompters(self) -> list[clouds.Component]:
            return [one for one in components if one.kind == "prompter"]

        @clouds.hookimpl
        def clouds_backbones(self) -> list[clouds.Component]:
            return [one for one in components if one.kind == "backbone"]

    return clouds.Catalog(plugins={"my-plugin": Plugin()})


def test_a_good_declaration_passes(presets: Path) -> None:
    presets.write_text(
        "def mine(labels, *, language: str = 'en', sizes: tuple[int, ...] = (1, 2)): ...", encoding="utf-8"
    )
    check_component(component())


@pytest.mark.parametrize("summary", ["", "  ", "two\nlines"])
def test_summaries_are_one_line(summary: str) -> None:
    with pytest.raises(ContractError, match=r"prompter 'mine': the summary must be one line of text; got"):
        check_component(component(summary=summary))


def test_backbones_provide_the_pyramid() -> None:
    with pytest.raises(ContractError, match=r"a backbone provides res2, .*; got provides without \['res3'\]"):
        check_component(component("backbone", provides=["res2", "res4", "res5"]))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("prompter", {"provides": ["res2"]}), ("head", {"provides": ["res2"]}), ("prompter", {"needs": ["res2"]})],
)
def test_capabilities_are_between_backbones_and_heads(kind: str, fields: dict[str, list[str]]) -> None:
    with pytest.raises(ContractError, match=r"only backbones provide .* and adapters need them; got \['res2'\]"):
        check_component(component(kind, **fields))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import torch\ndef mine(): ...",
            r"importing 'presets_under_test' must not import torch.*; got torch in sys.mod",
        ),
        ("import nowhere", r"must import in a fresh interpreter; got ModuleNotFoundError: No module named 'nowhere'"),
        ("", r"module 'presets_under_test' has no attribute 'mine'"),
        ("def mine(**options): ...", r"has a wrong signature: \*\*options"),
        ("def mine(*, language='en'): ...", r"option 'language' must have a type annotation.*; got language='en'"),
        ("def mine(*, n: int = 0.5): ...", r"the default of option 'n' must be of its type; got n: int = 0.5"),
        (
            "class Vocabulary: ...\ndef mine(*, words: Vocabulary = Vocabulary()): ...",
            r"default of option 'words' must be a plain value, because a plan is JSON; got Vocabulary is not a plain",
        ),
    ],
)
def test_factories_are_light_and_readable(presets: Path, source: str, message: str) -> None:
    presets.write_text(source, encoding="utf-8")
    with pytest.raises(ContractError, match=message):
        check_component(component())


def test_what_a_name_builds_is_checked_by_its_kind(presets: Path) -> None:
    presets.write_text(
        "def mine(*, extra: int = 0):\n"
        "    import clouds\n"
        "    class Words(clouds.Prompter):\n"
        "        def prompts(self, n, *, seed):\n"
        "            return ['a street'] * (n + extra)\n"
        "    return Words()\n",
        encoding="utf-8",
    )
    mine = catalog(component())
    check_by_name("prompter", "mine", catalog=mine)
    with pytest.raises(ContractError, match=r"prompts\(0, seed=3\) must be a list of 0 strings"):
        check_by_name("prompter", "mine", options={"extra": 1}, catalog=mine)


def build_with(source: str) -> str:
    lines = "".join(f"    {line}\n" for line in (IMPORTS + BACKBONE).splitlines())
    return f"def mine():\n{lines}    return {source}\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Thin(torch.ones(()))", None),
        ("Thin(torch.rand(()))", r"a second instance with the weights of the first must give the same answer"),
        (
            "Words(torch.ones(()))",
            r"`provides=` must be the capabilities of what is built, .*'text-encoder'\]; got \['res2",
        ),
    ],
)
def test_declared_and_built_backbones_agree(presets: Path, source: str, message: str | None) -> None:
    presets.write_text(build_with(source), encoding="utf-8")
    mine = catalog(component("backbone", provides=PYRAMID))
    if message is None:
        check_by_name("backbone", "mine", catalog=mine)
        return
    with pytest.raises(ContractError, match=message):
        check_by_name("backbone", "mine", catalog=mine)


def test_tests_are_made_for_the_components_of_one_distribution() -> None:
    made = component_tests("My_Plugin", catalog=catalog(component(), component("backbone", name="other")))
    (mark,) = made.pytestmark
    assert mark.kwargs["ids"] == ["backbone:other", "prompter:mine"]


def test_a_distribution_without_components_is_an_error() -> None:
    with pytest.raises(ContractError, match=r"not-there: a plugin must offer components; got none -> install it"):
        component_tests("not-there", catalog=catalog(component()))


def test_a_broken_plugin_is_an_error() -> None:
    class Raises:
        @clouds.hookimpl
        def clouds_prompters(self) -> list[clouds.Component]:
            raise RuntimeError("out of words")

    broken = clouds.Catalog(plugins={"my-plugin": Raises()})
    with pytest.raises(
        ContractError, match=r"my-plugin: every plugin must load; got .*out of words -> see `clouds doc"
    ):
        component_tests("my-plugin", catalog=broken)


def test_only_what_exists_can_be_left_out() -> None:
    with pytest.raises(ContractError, match=r"`without` must name components .* got \['backbone:gone'\]"):
        component_tests("my-plugin", without={"backbone:gone"}, catalog=catalog(component()))
