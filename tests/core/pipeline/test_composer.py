import numpy as np
import pytest
import torch

import clouds
from clouds.core.contract.plan import PlanError
from clouds.core.contract.schema import Schema, read_schema
from clouds.core.pipeline.build import build_part, pick_device
from clouds.core.system.errors import ComponentError, ConfigError

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def not_a_head(features: object, labels: object) -> str:
    return "a string"


class Plugin:
    """A plugin whose head factory returns something else."""

    @clouds.hookimpl
    def clouds_heads(self) -> list[clouds.Component]:
        here = f"{__name__}:not_a_head"
        return [clouds.Component(name="not-a-head", kind="head", factory=here, summary="wrong")]


def test_every_part_is_reachable() -> None:
    pipeline = clouds.compose(
        backbone=TINY, head="linear", generator="procedural", refiner="regions", prompter="grammar", device="cpu"
    )
    assert isinstance(pipeline.backbone, clouds.Backbone)
    assert isinstance(pipeline.head, clouds.Head)
    assert isinstance(pipeline.generator, clouds.Generator)
    assert isinstance(pipeline.refiner, clouds.Refiner)
    assert isinstance(pipeline.prompter, clouds.Prompter)
    assert pipeline.labels is pipeline.plan.labels
    assert pipeline.plan.parts["head"].name == "linear"


def test_each_schema_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def note(component: clouds.Component) -> Schema:
        read.append(component.name)
        return read_schema(component)

    monkeypatch.setattr("clouds.core.contract.catalog.read_schema", note)
    clouds.compose(backbone="tiny", head="linear", generator="procedural", prompter="grammar", pretrained=False)
    assert sorted(read) == ["grammar", "linear", "procedural", "tiny"]


def test_three_faults_are_reported_at_once() -> None:
    with pytest.raises(PlanError) as caught:
        clouds.compose(backbone="tny", head={"name": "linear", "widht": 64}, refiner="region")
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    for words in (
        "the plan has 3 problems",
        "did you mean 'tiny'?",
        "did you mean 'width'?",
        "did you mean 'regions'?",
    ):
        assert words in text


def test_parts_can_be_ready_modules() -> None:
    backbone = build_part("backbone", TINY)
    head = build_part("head", {"name": "linear", "width": 8}, features=backbone.features)
    pipeline = clouds.compose(backbone=backbone, head=head, device="cpu")
    assert pipeline.backbone is backbone
    assert pipeline.head is head
    assert pipeline.plan.parts["backbone"].ready.endswith("TinyBackbone")


def test_a_factory_that_returns_something_else_is_named() -> None:
    catalog = clouds.Catalog(plugins={"some-plugin": Plugin()})
    with pytest.raises(ComponentError, match=r"head 'not-a-head': factory .* returned str; expected a clouds\.Head"):
        build_part("head", "not-a-head", features={}, catalog=catalog)


def test_a_part_alone_reports_all_its_faults() -> None:
    with pytest.raises(PlanError, match=r"(?s)2 problems.*unknown option 'a'.*unknown option 'b'"):
        build_part("refiner", {"name": "identity", "a": 1, "b": 2})


def test_devices_that_are_not_there_are_named() -> None:
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda:3' asked for, but torch sees 0 CUDA devices"):
            pick_device("cuda:3")
    if not torch.backends.mps.is_available():
        with pytest.raises(ConfigError, match="device 'mps' asked for"):
            pick_device("mps")


def test_custom_label_spaces_shape_the_head() -> None:
    labels = clouds.LabelSpace.from_names(["ground", "sky", "else"])
    pipeline = clouds.compose(backbone=TINY, head="linear", labels=labels, device="cpu")
    pipeline.trained = True
    assert pipeline.predict(np.zeros((9, 9, 3), np.uint8)).scores().shape == (3, 9, 9)
