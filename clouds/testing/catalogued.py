"""Contract checks for components by name, and for all components of a distribution."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from packaging.utils import canonicalize_name
from torch import Tensor, nn

from clouds.core.contract.catalog import GROUP, Catalog, Entry
from clouds.core.contract.component import FeatureSpec, Kind
from clouds.core.contract.interfaces import LEVELS, Backbone, Head, TextClassifier, capabilities
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.pipeline.build import build_part
from clouds.core.pipeline.segmenter import blocks_of
from clouds.core.weights.loading import load_weights
from clouds.testing.adapter import check_adapter
from clouds.testing.backbone import check_backbone
from clouds.testing.component import check_component
from clouds.testing.contract import in_evaluation, require
from clouds.testing.generator import check_generator
from clouds.testing.head import check_head, random_classifier, random_features
from clouds.testing.prompter import check_prompter
from clouds.testing.refiner import check_refiner

TEXT_WIDTH = 16
QUERIES = (10, 16)  # number and width
FEATURES = {name: FeatureSpec(channels=8 * (i + 1), stride=4 * 2**i) for i, name in enumerate(LEVELS)}


def check_by_name(
    kind: Kind | str, name: str, *, options: Mapping[str, Any] | None = None, catalog: Catalog | None = None
) -> None:
    """Check a component of the catalog: its declaration, and the object that it builds with random weights.

    Args:
        kind: a `Kind` or its string.
        name: name of the component, as for `compose`.
        options: options of the factory, if it requires any.
        catalog: None means built-ins and installed plugins.

    Raises:
        ContractError: a clause is broken.
        CloudsError: the name is unknown, or the component cannot be built.
    """
    kind, catalog = Kind(kind), catalog or Catalog.from_environment()
    component = catalog.find(kind, name)
    check_component(component)

    backbone: Backbone = build_part(Kind.BACKBONE, "tiny")  # to build adapters for

    def build() -> Any:
        return build_part(
            kind,
            {"name": name, **(options or {})},
            features=FEATURES,
            text_width=TEXT_WIDTH,
            blocks=blocks_of(backbone),
            queries=QUERIES,
            pretrained=False,
            catalog=catalog,
        )

    built = build()
    if kind == Kind.ADAPTER:
        check_adapter(built, backbone)
        _check_provides(f"{kind} {name!r}", component.provides.union(*component.provides_with.values()), built)
    elif kind == Kind.BACKBONE:
        check_backbone(built)
        _check_provides(f"{kind} {name!r}", component.provides, built)
        _check_rebuilt(built, build(), _backbone_answer)
    elif kind == Kind.HEAD:
        classifier = random_classifier(CITYSCAPES, TEXT_WIDTH) if built.uses_text else None
        check_head(built, FEATURES, classifier=classifier)
        _check_rebuilt(built, build(), partial(_head_answer, classifier=classifier))
    elif kind == Kind.GENERATOR:
        check_generator(built)
    elif kind == Kind.REFINER:
        check_refiner(built)
    else:
        check_prompter(built)


def component_tests(
    distribution: str,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    without: Collection[str] = (),
    catalog: Catalog | None = None,
) -> Callable[..., None]:
    """Make a pytest test with one case per component of an installed distribution.

    ```python
    from clouds.testing import component_tests

    test_contract = component_tests("my-distribution")
    ```

    Args:
        distribution: name of the distribution for `pip`.
        options: required options by `"kind:name"`: `{"prompter:file": {"path": "prompts.txt"}}`.
        without: `"kind:name"` of components to skip because they are too large; check their classes with smaller sizes.
        catalog: None means built-ins and installed plugins.

    Raises:
        ContractError: the distribution offers no component, or one of its plugins is broken.
    """
    import pytest

    catalog = catalog or Catalog.from_environment()
    mine = canonicalize_name(distribution)
    broken = [str(plugin) for plugin in catalog.broken if canonicalize_name(plugin.distribution) == mine]
    require(not broken, distribution, "every plugin must load", got="; ".join(broken), remedy="see `clouds doctor`")
    entries = [e for kind in Kind for e in catalog.entries(kind) if canonicalize_name(e.distribution) == mine]
    names = {f"{entry.component.kind}:{entry.component.name}" for entry in entries}
    require(
        set(without) <= names,
        distribution,
        "`without` must name components of the distribution",
        got=sorted(set(without) - names),
        remedy=f"names are {sorted(names)}",
    )
    entries = [entry for entry in entries if f"{entry.component.kind}:{entry.component.name}" not in without]
    require(
        bool(entries),
        distribution,
        "a plugin must offer components",
        got="none",
        remedy=f"install it (pip install -e .) and declare [project.entry-points.{GROUP}] in its pyproject.toml",
    )
    ids = [f"{entry.component.kind}:{entry.component.name}" for entry in entries]

    @pytest.mark.parametrize("entry", entries, ids=ids)
    def test_contract(entry: Entry) -> None:
        component = entry.component
        chosen = (options or {}).get(f"{component.kind}:{component.name}")
        check_by_name(component.kind, entry.qualified_name, options=chosen, catalog=catalog)

    return test_contract


def _check_provides(who: str, declared: frozenset[str], built: object) -> None:
    found = capabilities(built)
    require(
        declared == found,
        who,
        f"`provides=` must be the capabilities of what is built, {sorted(found)}",
        got=sorted(declared),
        remedy="correct `provides=`, or derive the class from TextEncoder, MaskPooler or Blocks",
    )


def _check_rebuilt(first: nn.Module, second: nn.Module, answer: Callable[[Any], list[Tensor]]) -> None:
    """Check that a second instance with the same weights gives the same output, as `clouds.load` needs."""
    load_weights(second, first.state_dict(), source="state_dict of the first instance")
    with torch.no_grad():
        pairs = zip(answer(in_evaluation(first)), answer(in_evaluation(second)), strict=True)
        same = all(torch.equal(one, other) for one, other in pairs)
    require(
        same,
        first,
        "a second instance with the weights of the first must give the same answer, as after clouds.load",
        got="another answer",
        remedy="keep everything random in parameters and persistent buffers",
    )


def _backbone_answer(backbone: Backbone) -> list[Tensor]:
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    return list(backbone(images).levels().values())


def _head_answer(head: Head, classifier: TextClassifier | None) -> list[Tensor]:
    output = head(random_features(FEATURES, batch=1, height=32, width=32, dense=TEXT_WIDTH), classifier)
    return [output.class_logits, output.mask_logits]
