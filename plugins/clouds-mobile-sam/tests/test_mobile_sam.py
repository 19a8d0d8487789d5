"""TinyViT is the published network, MobileSAM has the published keys, and recipes find it."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import clouds
import pytest
import timm
import torch
from clouds.testing import check_component, check_refiner
from safetensors.torch import save_file

from clouds_mobile_sam import mobile_sam
from clouds_mobile_sam.build import build_sam, build_segmenter
from clouds_mobile_sam.tiny_vit import TinyViT


def randomise(module: torch.nn.Module) -> None:
    """Also what starts at 0 or 1: biases of attention, and the statistics of batch normalisation."""
    random = torch.Generator().manual_seed(0)
    for value in module.state_dict().values():
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=random) + 0.5)
        elif value.ndim:
            value.copy_(torch.randn(value.shape, generator=random) * value[0].numel() ** -0.5)


def timm_name(key: str) -> str:
    """timm opens a stage with the reduction that closes the one before in the published files."""
    key = re.sub(r"layers\.(\d)\.downsample", lambda found: f"stages.{int(found[1]) + 1}.downsample", key)
    key = key.replace("layers.", "stages.").replace("seq.0.", "conv1.").replace("seq.2.", "conv2.")
    return re.sub(r"\.c\.", ".conv.", key)


@pytest.fixture(scope="module")
def features() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What comes out of the patch embedding and each stage, from ours and from timm's with the same weights."""
    ours, theirs = TinyViT().eval(), timm.create_model("tiny_vit_5m_224").eval()
    randomise(ours)
    weights = {timm_name(key): value for key, value in ours.state_dict().items() if not key.startswith("neck")}
    for key in [key for key in weights if key.startswith(("head", "norm_head"))]:
        del weights[key]
    left = theirs.load_state_dict(weights, strict=False)
    assert left.unexpected_keys == []
    assert all(key.startswith("head.") for key in left.missing_keys)
    reduction = theirs.get_submodule("stages.3.downsample.conv2.conv")
    assert isinstance(reduction, torch.nn.Conv2d)
    reduction.stride = (1, 1)  # what MobileSAM changed
    found = listen(theirs, ["patch_embed", *(f"stages.{index}.blocks" for index in range(4))])
    made = listen(ours, ["patch_embed", *(f"layers.{index}.blocks" for index in range(4))])
    images = torch.randn(2, 3, 176, 240, generator=torch.Generator().manual_seed(1))  # no multiple of any window
    with torch.no_grad():
        ours(images)
        theirs.get_submodule("stages")(theirs.get_submodule("patch_embed")(images))
    return made, [x if index < 2 else x.permute(0, 3, 1, 2) for index, x in enumerate(found)]


def listen(module: torch.nn.Module, names: list[str]) -> list[torch.Tensor]:
    """What comes out of these submodules, once the module has run."""
    heard: list[torch.Tensor] = []

    def hear(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        heard.append(output)

    for name in names:
        module.get_submodule(name).register_forward_hook(hear)
    return heard


@pytest.mark.parametrize("stage", range(5))
def test_features_are_timms(features: tuple[list[torch.Tensor], list[torch.Tensor]], stage: int) -> None:
    """Orders of summation differ: some 30 layers of float32 (1.2e-7), relative to the largest value."""
    ours, theirs = features[0][stage], features[1][stage]
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


def test_the_embedding_has_stride_16() -> None:
    with torch.no_grad():
        assert TinyViT(64).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 4, 4)


@pytest.mark.parametrize("refinement", [False, True])
def test_contract(refinement: bool) -> None:
    segmenter = clouds.SamSegmenter(build_sam(128))
    check_refiner(clouds.PromptRefiner(segmenter, size_threshold=20, refinement=refinement))


def test_declaration() -> None:
    check_component(clouds.catalog().find("refiner", "mobile-sam"))


def test_options_are_its_own_and_those_of_sam() -> None:
    ours = inspect.signature(mobile_sam).parameters
    sam = inspect.signature(clouds.catalog().find("refiner", "sam-vit-h").load_factory()).parameters
    shared = [parameter for name, parameter in sam.items() if name not in ("model", "pretrained")]
    assert len(shared) == 12
    assert list(ours) == ["pretrained", *(parameter.name for parameter in shared)]
    assert [ours[parameter.name] for parameter in shared] == shared


def test_keys_are_those_of_the_released_checkpoints() -> None:
    folder = os.environ.get("CLOUDS_GOLDEN")
    if not folder:
        pytest.skip("CLOUDS_GOLDEN is not set")
    table = json.loads(
        (Path(folder) / "keys_joint_convnext_large_d_320_overwriting_False.json").read_text(encoding="utf-8")
    )
    prefix = "sam.sam."
    expected = {key.removeprefix(prefix): tuple(row[0]) for key, row in table.items() if key.startswith(prefix)}
    assert len(expected) == 439
    assert {key: tuple(value.shape) for key, value in build_sam().state_dict().items()} == expected


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    sam = build_sam()
    randomise(sam)
    save_file(sam.state_dict(), tmp_path / "net.safetensors")
    for key, value in build_segmenter(tmp_path / "net.safetensors").sam.state_dict().items():
        assert torch.equal(value, sam.state_dict()[key]), key
    torch.save(sam.state_dict(), tmp_path / "mobile_sam.pt")  # the published name, and other content
    with pytest.raises(clouds.WeightsError, match=r"mobile_sam\.pt"):
        mobile_sam(pretrained=tmp_path / "mobile_sam.pt")


def test_a_released_recipe_finds_it() -> None:
    command = [Path(sys.executable).with_name("clouds"), "plan", "gta-convnext-l", "--phase", "joint", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plan = clouds.Plan.from_json(done.stdout)
    assert plan.parts[clouds.Kind.REFINER].name == "mobile-sam"


def test_its_weights_are_listed_and_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the published name, where offline weights lie: it is found, and refused for its content."""
    command = [str(Path(sys.executable).with_name("clouds")), "weights"]
    (tmp_path / "mobile_sam.pt").write_bytes(b"another network")
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    done = subprocess.run([*command, "list", "--json"], capture_output=True, text=True, check=True)
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert listed["mobile-sam"]["licence"] == "Apache-2.0"
    assert listed["mobile-sam"]["files"] == [str(tmp_path / "mobile_sam.pt")]
    done = subprocess.run([*command, "verify", "mobile-sam"], capture_output=True, text=True, check=False)
    assert (done.returncode, "DAMAGED" in done.stdout) == (1, True)
    with pytest.raises(clouds.WeightsError, match=r"mobile_sam\.pt: sha256 is .*, expected 6dbb90523a35330f"):
        mobile_sam()
    monkeypatch.setenv("CLOUDS_PLUGINS", "")
    done = subprocess.run([*command, "fetch", "mobile-sam"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown weights 'mobile-sam'; they come with pip install plugins/clouds-mobile-sam" in done.stderr
