"""From open_clip's names and weight files to backbones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from backbone_helpers import CONFIGS, clip_model, model_name, published
from huggingface_hub import constants
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

import clouds
from clouds.backbones import presets
from clouds.backbones.clip_convnext import ClipConvNeXt
from clouds.backbones.clip_resnet import ClipResNet
from clouds.backbones.clip_vit import ClipVit
from clouds.core.contract.component import Kind
from clouds.core.contract.plan import PlanError
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError, TrustError, WeightsError
from clouds.testing import check_by_name

__all__ = ["published"]  # the fixture
pytestmark = pytest.mark.usefixtures("published")

KINDS = {"resnet": ClipResNet, "convnext": ClipConvNeXt}


def test_the_image_tower_decides_the_class_and_the_tag_the_normalisation() -> None:
    for family in CONFIGS:
        backbone = build_part("backbone", f"clip:{model_name(family)}/none", pretrained=False)
        assert type(backbone) is KINDS.get(family, ClipVit)
        assert backbone.frozen
        assert backbone.mean.flatten().tolist() == [127.5, 63.75, 31.875]
        assert not build_part(
            "backbone", {"name": f"clip:{model_name(family)}/none", "trainable": True}, pretrained=False
        ).frozen


@pytest.mark.parametrize("family", CONFIGS)
def test_contract_by_name(family: str) -> None:
    """Declaration, built backbone, and the same answer after loading its weights into a second one."""
    check_by_name("backbone", f"clip:{model_name(family)}/none")


def test_weights_trained_with_quickgelu_bring_it_along() -> None:
    for weights, quick in (("none", False), ("quick", True)):
        backbone: Any = build_part("backbone", f"clip:RN-test/{weights}", pretrained=False)
        assert isinstance(backbone.clip_model.transformer.resblocks[0].mlp.gelu, QuickGELU) == quick


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt"])
@torch.no_grad()
def test_local_files_are_loaded(tmp_path: Path, family: str, ending: str) -> None:
    state = clip_model(family).state_dict()
    path = tmp_path / f"open_clip_model{ending}"
    if ending == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    name = {"name": f"clip:{model_name(family)}/none", "pretrained": str(path)}
    first, second = build_part("backbone", name), build_part("backbone", name)
    images = torch.rand(1, 3, 64, 64) * 255
    assert torch.equal(first(images).res5, second(images).res5)
    first.tokenizer = second.tokenizer = lambda texts: torch.ones(len(texts), first.clip_model.context_length).long()
    assert torch.equal(first.embed_text(["road"]), second.embed_text(["road"]))
    assert torch.equal(first.clip_model.logit_scale, state["logit_scale"])


def test_texts_in_the_old_layout_and_scalars_of_one_element_are_understood(tmp_path: Path) -> None:
    state = dict(clip_model("eva").state_dict())
    old = {key.removeprefix("text."): value for key, value in state.items()}
    old["logit_scale"] = old["logit_scale"].reshape(1)
    torch.save(old, tmp_path / "w.pt")
    backbone = build_part("backbone", {"name": "clip:test-eva/none", "pretrained": tmp_path / "w.pt"})
    assert torch.equal(backbone.clip_model.text.token_embedding.weight, state["text.token_embedding.weight"])


def test_files_that_do_not_fit_name_file_and_keys(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = dict(clip_model("resnet").state_dict())
    torch.save({**state, "ln_final.weight": torch.ones(7)}, path)
    with pytest.raises(WeightsError, match=r"w\.pt does not fit CLIP: 1 wrong shapes: ln_final\.weight is \(7,\), exp"):
        presets.clip(model="RN-test", weights="none", pretrained=path)
    torch.save(clip_model("convnext").state_dict(), path)
    with pytest.raises(WeightsError, match=r"w\.pt does not fit CLIP: \d+ missing keys: visual\..*; \d+ keys that no"):
        presets.clip(model="RN-test", weights="none", pretrained=path)
    torch.save({**state, "logit_scale": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match=r"logit_scale is \(2,\), expected \(\)"):
        presets.clip(model="RN-test", weights="none", pretrained=path)


def test_published_weights_are_downloaded_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = clip_model("resnet").state_dict()
    asked: list[str] = []

    def download(repo_id: str, filename: str, **_: object) -> str:
        asked.append(f"{repo_id}/{filename}")
        save_file(state, tmp_path / "w.safetensors")
        return str(tmp_path / "w.safetensors")

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", download)
    backbone = build_part("backbone", "clip:RN-test/none", pretrained=True)
    assert asked == ["nobody/nothing/open_clip_model.safetensors"]
    assert all(torch.equal(backbone.clip_model.state_dict()[key], value) for key, value in state.items())


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", offline)
    match = r"weights 'none' of open_clip model 'RN-test' could not be loaded .*no route to host.*pretrained=FILE"
    with pytest.raises(WeightsError, match=match):
        build_part("backbone", "clip:RN-test/none", pretrained=True)


def test_weights_behind_a_network_that_is_down_are_given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and no second try."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("name not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("clouds.core.system.reach.socket.create_connection", fail)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    match = r"weights 'none' of open_clip .*huggingface\.co cannot be reached: name not known.*`clouds weights fetch"
    with pytest.raises(WeightsError, match=match) as caught:
        build_part("backbone", "clip:RN-test/none", pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("clip:RN51/openai", r"open_clip has no model 'RN51'; did you mean 'RN\d+'"),
        ("clip:RN50/opnai", "open_clip has no weights 'opnai' of 'RN50'; did you mean 'openai'"),
        ("clip:hf-hub:a/b/c", r"open_clip has no model 'hf-hub:a'"),
        ("clip:coca_ViT-B-32/laion2b_s13b_b90k", "'coca_ViT-B-32' is not supported: its text tower"),
        ("clip:roberta-ViT-B-32/laion2b_s12b_b32k", "'roberta-ViT-B-32' is not supported: its text tower"),
        ("clip:MobileCLIP-S1/datacompdr", r"'MobileCLIP-S1' is not supported: its image tower is a FastVit; expected"),
    ],
)
def test_models_that_cannot_serve_are_refused(name: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match), torch.device("meta"):
        build_part("backbone", name, pretrained=False)


def test_a_model_without_weights_in_its_name_is_unknown() -> None:
    with pytest.raises(PlanError, match="unknown backbone 'clip:RN50'"):
        build_part("backbone", "clip:RN50")


def test_random_siglip_takes_bytes_and_embeds_without_files() -> None:
    backbone: Any = presets.clip(model="test-siglip", weights="none", pretrained=False, tokenizer="bytes")
    embeddings = backbone.embed_text(["road", "sky", "road"])
    assert torch.allclose(embeddings[0], embeddings[2])
    assert not torch.allclose(embeddings[0], embeddings[1])


def test_random_weights_need_no_tokenizer_from_the_hub() -> None:
    part = clouds.plan(backbone="clip:ViT-B-16-SigLIP2/webli", head="linear", pretrained=False).parts["backbone"]
    assert part.options["tokenizer"] == "bytes"
    part = clouds.plan(backbone="clip:ViT-B-16-SigLIP2/webli", head="linear").parts["backbone"]
    assert part.options["tokenizer"] == "hub"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """The places that something tried to connect to, in vain; the hub's cache has nothing."""
    places: list[object] = []

    def connect(socket: object, place: object) -> None:
        places.append(place)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return places


def test_a_saved_plan_makes_nobody_ask_the_hub_for_a_tokenizer(
    tmp_path: Path, connections: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """New labels need tokens: those of files that are here, or, with consent, of the hub."""
    config: Any = open_clip.get_model_config("test-siglip")
    config["text_cfg"]["hf_tokenizer_name"] = "nobody/nothing"
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config)
    backbone = {"name": "clip:test-siglip/none", "pretrained": False, "tokenizer": "bytes"}
    pipeline = clouds.compose(backbone=backbone, head="mask2former-text", device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "out")
    (tmp_path / "out" / "classifier.safetensors").unlink()  # the embeddings, for which no tokens are needed
    plan = tmp_path / "out" / "plan.json"
    plan.write_text(
        plan.read_text(encoding="utf-8").replace('"tokenizer": "bytes"', '"tokenizer": "hub"'), encoding="utf-8"
    )
    labels = clouds.LabelSpace.from_names(["road", "sky"])

    loaded = clouds.load(tmp_path / "out", device="cpu")
    for one in (loaded, loaded.with_labels(labels)):
        with pytest.raises(
            WeightsError, match=r"asks no server, .* consent: clouds\.load\(\.\.\., trust=\('backbone',\)\)"
        ):
            one.predict(np.zeros((32, 32, 3), np.uint8))
    assert connections == []
    assert loaded.plan.parts[Kind.BACKBONE].options["tokenizer"] == "hub"

    trusted = clouds.load(tmp_path / "out", device="cpu", trust=("backbone",))
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1 cannot be reached: .*refused"):
        trusted.with_labels(labels).predict(np.zeros((32, 32, 3), np.uint8))
    assert connections == [("127.0.0.1", 1)]


def test_a_tokenizer_that_a_plan_names_itself_needs_consent(tmp_path: Path, connections: list[object]) -> None:
    clouds.compose(backbone="clip:test-siglip/none", head="linear", pretrained=False, device="cpu").save(
        tmp_path / "out"
    )
    path = tmp_path / "out" / "plan.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"tokenizer": "bytes"', '"tokenizer": "owner/name"'), encoding="utf-8"
    )
    with pytest.raises(
        TrustError, match=r"reaches out of this folder \(tokenizer='owner/name'\); if you trust whoever"
    ):
        clouds.load(path.parent, device="cpu")
    assert connections == []
