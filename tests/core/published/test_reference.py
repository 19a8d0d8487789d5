"""Published checkpoints: what they are taken for, what comes back, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from reference_models import CATALOG, DEPTHS, backbone_shapes, published
from torch import Tensor

import clouds
from clouds.core.published.keys import find_backbone, find_classes, find_head
from clouds.core.system.errors import ConfigError, WeightsError

STATE = published()
SMALL = {"queries": 3, "width": 4, "layers": 2, "feedforward": 5, "encoder_layers": 1, "encoder_feedforward": 6}


def read(content: Any, **options: Any) -> clouds.Pipeline:
    return clouds.from_reference_checkpoint(content, device="cpu", catalog=CATALOG, **options)


def shapes_of(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal keys, order, types and bits."""
    assert list(actual) == list(expected)
    for key, tensor in expected.items():
        assert actual[key].dtype == tensor.dtype, key
        assert torch.equal(actual[key], tensor), key


class TestFinding:
    @pytest.mark.parametrize("name", DEPTHS)
    def test_every_backbone(self, name: str) -> None:
        shapes = {f"backbone.{key}": shape for key, shape in backbone_shapes(name).items()}
        assert find_backbone(shapes, source="it") == (DEPTHS[name][0], name)

    @given(
        sizes=st.fixed_dictionaries(
            {
                "queries": st.integers(1, 300),
                "width": st.integers(1, 99),
                "layers": st.integers(1, 12),
                "feedforward": st.integers(1, 99),
                "encoder_layers": st.integers(1, 12),
                "encoder_feedforward": st.integers(1, 99),
                "encoder_points": st.integers(1, 9),
                "project_inputs": st.booleans(),
            }
        ),
        classes=st.integers(1, 250),
        kind=st.sampled_from(["", "text", "pooled"]),
    )
    def test_every_head(self, sizes: dict[str, int], classes: int, kind: str) -> None:
        shapes = shapes_of(published(classes=classes, **sizes, **({kind: True} if kind else {})))
        assert find_head(shapes, source="it") == (f"mask2former-{kind}".rstrip("-"), sizes)
        assert find_classes(shapes) == classes

    def test_an_option_is_left_out_where_tensors_differ(self) -> None:
        shapes = shapes_of(STATE) | {"sem_seg_head.predictor.query_feat.weight": (99, 256)}
        assert "queries" not in find_head(shapes, source="it")[1]

    def test_another_model_is_refused(self) -> None:
        state = {"backbone.bottom_up.res2.weight": torch.zeros(1)}
        message = (
            "the state dict: not a checkpoint of CLOUDS: it has neither backbone.clip_model.visual.trunk.stem.0.weight "
        )
        message += "nor backbone.clip_model.visual.conv1.weight; its 1 keys begin with backbone.bottom_up.res2.weight"
        with pytest.raises(WeightsError, match=re.escape(message)):
            read(state)

    def test_a_backbone_of_another_size_is_refused(self) -> None:
        stem = "backbone.clip_model.visual.conv1.weight"
        message = f"no published backbone has {stem} of shape (33, 3, 2, 2) and (3, 4, 6, 3) blocks; "
        message += "expected channels and blocks of clip-rn50 (32, 3, 4, 6, 3); clip-rn101 "
        with pytest.raises(WeightsError, match=re.escape(message)):
            read({**STATE, stem: torch.zeros(33, 3, 2, 2)})

    def test_a_backbone_alone_is_refused(self) -> None:
        with pytest.raises(WeightsError, match=r"no key begins with sem_seg_head\.predictor\."):
            read({key: value for key, value in STATE.items() if key.startswith("backbone.")})

    def test_another_number_of_classes_is_refused(self) -> None:
        message = "checkpoint has 4 classes, but label space 'cityscapes' has 19; pass the label space"
        with pytest.raises(WeightsError, match=message):
            read(published(classes=4))


class TestRoundTrip:
    @pytest.mark.parametrize("head", [{}, {"text": True}, {"pooled": True}, SMALL])
    @pytest.mark.parametrize("joint", [False, True])
    def test_keys_order_and_bits_come_back(self, tmp_path: Path, head: dict[str, Any], joint: bool) -> None:
        state = published("clip-rn101", joint=joint, **head)
        pipeline = read(state)
        assert_same(pipeline.to_reference_state_dict(), state)
        pipeline.save(tmp_path / "out")
        loaded = clouds.load(tmp_path / "out", device="cpu", catalog=CATALOG)
        assert_same(loaded.to_reference_state_dict(), state)
        assert list(loaded.kept) == list(pipeline.kept)

    @pytest.mark.parametrize("form", ["bare", "wrapped", "arrays", "file"])
    def test_every_form_of_a_checkpoint(self, tmp_path: Path, form: str) -> None:
        arrays = {key: value.numpy() for key, value in STATE.items()}
        arrays["criterion.empty_weight"] = arrays["criterion.empty_weight"].astype(">f4")  # of another machine
        forms = {"bare": STATE, "wrapped": {"model": STATE, "iteration": 3}, "arrays": {"model": arrays}}
        if form == "file":
            torch.save(forms["wrapped"], tmp_path / "model.pth")
        assert_same(read(tmp_path / "model.pth" if form == "file" else forms[form]).to_reference_state_dict(), STATE)

    def test_what_was_read_does_not_change_with_the_pipeline(self) -> None:
        state = {key: value.clone() for key, value in published(joint=True).items()}
        pipeline = read(state)
        for tensor in [*pipeline.kept.values(), *pipeline.head.state_dict().values()]:
            tensor.zero_()
        assert all(tensor.any() for tensor in state.values())

    def test_the_pipeline_counts_as_trained_and_keeps_what_no_module_uses(self) -> None:
        pipeline = read(STATE)
        assert pipeline.trained
        assert set(pipeline.kept) == {"criterion.empty_weight", "void_embedding.weight"}
        assert pipeline.plan.parts[clouds.Kind.BACKBONE].name == "clip-rn50"
        assert pipeline.backbone.frozen

    @pytest.mark.parametrize(("backbone", "valid"), [("clip-rn50", True), ("clip-convnext-large-d-320", False)])
    def test_the_ensemble_is_as_published(self, backbone: str, valid: bool) -> None:
        options = read(published(backbone), geometric_ensemble=True).plan.parts[clouds.Kind.HEAD].options
        assert options["geometric_ensemble"] is True
        assert options["ensemble_on_valid_mask"] is valid
        assert read(published(backbone)).plan.parts[clouds.Kind.HEAD].options["geometric_ensemble"] is False

    def test_other_labels(self) -> None:
        labels = clouds.LabelSpace.from_names(["ground", "sky"])
        assert read(published(classes=2), labels=labels).labels is labels

    def test_a_composed_pipeline_gets_what_the_published_code_wants(self) -> None:
        head = {"name": "mask2former", **SMALL, "no_object_weight": 0.25}
        labels = clouds.LabelSpace.from_names(["ground", "sky"])
        pipeline = clouds.compose(
            backbone="clip-rn50", head=head, labels=labels, pretrained=False, device="cpu", catalog=CATALOG
        )
        state = pipeline.to_reference_state_dict()
        assert list(state) == list(published(classes=2, **SMALL))
        assert state["criterion.empty_weight"].tolist() == [1, 1, 0.25]
        assert state["void_embedding.weight"].shape == published(**SMALL)["void_embedding.weight"].shape
        assert_same(read(state, labels=labels).to_reference_state_dict(), state)

    def test_class_weights_are_of_the_classes_that_were_trained(self) -> None:
        pipeline = read(published(**SMALL))
        pipeline.kept = {}
        other = clouds.LabelSpace.from_names(["ground", "sky"])
        pipeline.plan = evolve(pipeline.plan, labels=other, trained_labels=pipeline.labels)
        assert pipeline.to_reference_state_dict()["criterion.empty_weight"].shape == (20,)

    def test_half_precision_is_widened(self) -> None:
        half = {key: value.half() for key, value in STATE.items()}
        state = read(half).to_reference_state_dict()
        for key, value in half.items():
            assert state[key].dtype == (torch.float16 if key.startswith(("criterion", "void")) else torch.float32)
            assert torch.equal(state[key].float(), value.float())

    @pytest.mark.parametrize(
        ("backbone", "head", "named"),
        [("tiny", "mask2former", "backbone tiny"), ("clip-rn50", "linear", "head linear")],
    )
    def test_other_parts_have_no_published_form(self, backbone: str, head: str, named: str) -> None:
        pipeline = read(STATE)
        names = {clouds.Kind.BACKBONE: backbone, clouds.Kind.HEAD: head}
        parts = {kind: evolve(part, name=names[kind]) for kind, part in pipeline.plan.parts.items()}
        pipeline.plan = evolve(pipeline.plan, parts=parts)
        with pytest.raises(ConfigError, match=f"{named}.* has no published form; expected a backbone of clip-"):
            pipeline.to_reference_state_dict()


class TestFaults:
    @given(st.sampled_from([key for key in STATE if not key.startswith(("criterion", "void"))]))
    def test_one_missing_key_is_named(self, key: str) -> None:
        with pytest.raises(WeightsError, match=rf"(1 missing keys: {re.escape(key)}$|neither .*{re.escape(key)})"):
            read({other: value for other, value in STATE.items() if other != key})

    @given(st.sampled_from([key for key in STATE if not key.startswith(("criterion", "void"))]))
    def test_one_wrong_shape_is_named(self, key: str) -> None:
        wanted = tuple(STATE[key].shape)
        found = (*wanted, 3)[1:] if wanted else (3,)
        message = f"1 wrong shapes: {key} is {found}, expected {wanted}"
        either = rf"({re.escape(message)}$|no published backbone has {re.escape(key)} of shape {re.escape(str(found))})"
        with pytest.raises(WeightsError, match=either):
            read({**STATE, key: torch.zeros(found)})

    @pytest.mark.parametrize("key", ["sem_seg_head.extra", "backbone.clip_model.extra", "module.x", "criterion.extra"])
    def test_one_key_left_over_is_named(self, key: str) -> None:
        with pytest.raises(WeightsError, match=f"1 keys that no parameter has: {re.escape(key)}$"):
            read({**STATE, key: torch.zeros(1)})

    def test_all_faults_come_at_once_with_the_file(self, tmp_path: Path) -> None:
        gone, wrong = "backbone.clip_model.logit_scale", "sem_seg_head.predictor.query_feat.weight"
        state = {key: value for key, value in STATE.items() if key != gone}
        torch.save({"model": {**state, wrong: torch.zeros(2, 3), "more": torch.zeros(1)}}, tmp_path / "model.pth")
        with pytest.raises(WeightsError) as caught:
            read(tmp_path / "model.pth")
        assert str(caught.value) == (
            f"{tmp_path / 'model.pth'} was taken for clip-rn50 with mask2former, but does not fit it: "
            f"1 missing keys: {gone}; 1 keys that no parameter has: more; "
            f"1 wrong shapes: {wrong} is (2, 3), expected (100, 256)"
        )

    def test_many_missing_keys_are_all_named(self) -> None:
        gone = [key for key in STATE if "layer1" in key and key.endswith("bias")]
        gone += [key for key in STATE if "layer3" in key and key.endswith("bias")]
        with pytest.raises(WeightsError, match=re.escape(f"{len(gone)} missing keys: {', '.join(gone)}")):
            read({key: value for key, value in STATE.items() if key not in gone})

    def test_a_file_without_a_state_dict_is_named(self, tmp_path: Path) -> None:
        torch.save([1], tmp_path / "list.pth")
        with pytest.raises(WeightsError, match=r"list\.pth: holds a list; expected \{'model': state dict\}"):
            read(tmp_path / "list.pth")

    @pytest.mark.parametrize(
        ("value", "named"), [("text", "a str"), (np.array(["a"]), "a ndarray of <U1"), ([1.0], "a list")]
    )
    def test_a_value_that_is_no_tensor_is_named(self, value: object, named: str) -> None:
        message = f"the state dict: extra is {named}; expected a tensor or an array of numbers"
        with pytest.raises(WeightsError, match=re.escape(message)):
            read({"model": {**STATE, "extra": value}})

    @pytest.mark.parametrize(
        ("key", "expected"), [("void_embedding.weight", (1, 7)), ("criterion.empty_weight", (20,))]
    )
    def test_a_wrong_shape_of_what_no_module_uses_is_named(self, key: str, expected: tuple[int, ...]) -> None:
        message = f"1 wrong shapes: {key} is (5, 3), expected {expected}"
        with pytest.raises(WeightsError, match=re.escape(message)):
            read({**STATE, key: torch.zeros(5, 3)})

    def test_text_decoders_were_trained_for_a_number_of_classes_too(self) -> None:
        with pytest.raises(WeightsError, match="the checkpoint has 3 classes, but label space 'cityscapes' has 19"):
            read(published(text=True, classes=3))

    def test_keys_that_are_no_text_are_named(self, tmp_path: Path) -> None:
        torch.save({0: torch.zeros(1)}, tmp_path / "model.pth")
        with pytest.raises(WeightsError, match=r"not a checkpoint of CLOUDS: .*; its 1 keys begin with 0"):
            read(tmp_path / "model.pth")


class TestWrappings:
    """What people's tools put around a released state dict."""

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {f"module.{key}": value for key, value in state.items()},
            lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
            lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 1},
            lambda state: {"model_ema": state, "iteration": 1},
        ],
    )
    def test_what_is_before_all_names_is_taken_off(self, wrap: Any) -> None:
        loaded = read(wrap(STATE))
        assert_same(loaded.to_reference_state_dict(), STATE)

    def test_a_teachers_head_alone_is_the_head(self) -> None:
        teacher = {key.replace("sem_seg_head.", "sem_seg_head_ema.", 1): value for key, value in STATE.items()}
        loaded = read(teacher)
        assert_same(loaded.to_reference_state_dict(), STATE)

    def test_a_choice_between_models_is_the_users(self) -> None:
        state = {f"{name}.{key}": value for name in ("a", "b") for key, value in STATE.items()}
        with pytest.raises(WeightsError, match=r"holds the model more than once, under 'a\.', 'b\.'; save the one"):
            read(state)
