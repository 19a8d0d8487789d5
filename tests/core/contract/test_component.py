"""Declarations."""

from typing import Any

import attrs
import pytest

from clouds.core.contract.component import Component, Kind
from clouds.core.system.errors import ComponentError, did_you_mean

GOOD = {"name": "my-backbone", "kind": "backbone", "factory": "a.b:c", "summary": "a test"}


def test_kinds_name_hooks() -> None:
    assert [kind.hook for kind in Kind] == [
        "clouds_backbones",
        "clouds_adapters",
        "clouds_generators",
        "clouds_refiners",
        "clouds_heads",
        "clouds_prompters",
    ]
    with pytest.raises(
        ComponentError, match="unknown kind 'hat'; expected one of backbone, adapter, generator, refiner, head, pr"
    ):
        Kind("hat")


def test_fields_are_brought_to_one_form() -> None:
    component = Component(**GOOD, aliases="other", provides=["res2"], requires=["attrs>=24"])
    assert component.kind is Kind.BACKBONE
    assert component.aliases == ("other",)
    assert component.provides == frozenset({"res2"})
    assert component.requires == {"attrs>=24": "pip install 'attrs>=24'"}
    assert Component(**GOOD, requires="attrs").requires == {"attrs": "pip install 'attrs'"}
    assert Component(**GOOD, requires={"attrs": "conda install attrs"}).requires == {"attrs": "conda install attrs"}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        component.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", ["tiny", "clip-rn50x4", "sam2", "timm:vit_large.lvd142m", "clip:RN50/openai"])
def test_good_names(name: str) -> None:
    assert Component(**{**GOOD, "name": name}).name == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "My-Backbone"}, r"component name 'My-Backbone' is not kebab-case \(like 'clip-rn50'\) nor patterned"),
        ({"name": ""}, "component name '' is not kebab-case"),
        ({"name": "a::b"}, "component name 'a::b' is not kebab-case"),
        ({"name": "timm:a::b"}, "component name 'timm:a::b' is not kebab-case"),
        ({"name": "timm:"}, "component name 'timm:' is not kebab-case"),
        ({"aliases": ["a_b"]}, "component name 'a_b' is not kebab-case"),
        ({"kind": "hat"}, "unknown kind 'hat'"),
        ({"factory": "a.b.c"}, "backbone 'my-backbone': factory 'a.b.c' is not of the form 'package.module:attribute'"),
        ({"factory": "a:b:c"}, "is not of the form"),
        (
            {"provides": ["res6"]},
            r"unknown capabilities \['res6'\]; expected some of \['blocks', 'instances', 'mask-pooler', 'qu",
        ),
        ({"needs": ["wings"]}, r"unknown capabilities \['wings'\]"),
        ({"requires": [">=3"]}, "bad requirement '>=3'"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        Component(**{**GOOD, **fields})


def test_nearest_words() -> None:
    assert did_you_mean("grammer", ["file", "grammar"]) == "; did you mean 'grammar'?"
    assert did_you_mean("zzz", ["file", "grammar", "file"]) == "; known: file, grammar"
    assert did_you_mean("zzz", []) == "; none is known"
    assert did_you_mean("zzz", [f"a{i:03}" for i in range(1000)]).endswith(", a038, a039, and 960 more")
