from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clouds
from clouds.core.contract.component import Kind
from clouds.core.contract.plan import Part
from clouds.core.system.errors import ConfigError, WeightsError
from clouds.synthesis.clip_filter import ClipFilter
from clouds.synthesis.filters import judge
from clouds.synthesis.generate import generate_set
from clouds.synthesis.manifest import Row

REQUEST = clouds.GenerationRequest(prompt="a road", seed=0, size=(24, 40))


def preprocess(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((32, 32)))).permute(2, 0, 1) / 255


def tokenize(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[*text.encode()[:14].ljust(15), 255] for text in texts])


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """A CLIP of open_clip's own class with small random weights."""
    return open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        text_cfg={"context_length": 16, "vocab_size": 256, "width": 32, "heads": 2, "layers": 1},
    )


def picture(level: int) -> clouds.GeneratedImage:
    return clouds.GeneratedImage(request=REQUEST, image=np.full((24, 40, 3), level, np.uint8))


def test_the_score_is_the_cosine_of_picture_and_prompt(model: torch.nn.Module) -> None:
    score = ClipFilter(model, preprocess, tokenize).score(picture(90))
    with torch.no_grad():
        seen, said, _ = model(torch.full((1, 3, 32, 32), 90 / 255), tokenize(["a road"]))
    # Both are unit vectors of 16 numbers in float32, rounded to 2**-24 each, summed in two orders.
    assert score == pytest.approx(float((seen * said).sum()), abs=1e-5)
    assert judge(picture(90), [ClipFilter(model, preprocess, tokenize, score - 0.01)]).rejected_by is None
    assert judge(picture(90), [ClipFilter(model, preprocess, tokenize, min(1.0, score + 0.01))]).rejected_by == "clip"


def test_what_one_clip_rejected_is_tried_again_with_another(
    tmp_path: Path, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*args: object, **options: object) -> tuple[torch.nn.Module, None, object]:
        return model, None, preprocess

    class Grey(clouds.Generator):
        def generate(self, requests: Iterable[clouds.GenerationRequest]) -> Iterator[clouds.GeneratedImage]:
            for request in requests:
                yield clouds.GeneratedImage(request=request, image=picture(90).image)

    def make(weights: str, cosine: float) -> tuple[Row, ...]:
        one = ClipFilter.load(f"ViT-B-32/{weights}", least=0.5)
        monkeypatch.setattr(torch, "cosine_similarity", lambda seen, said: torch.tensor([cosine]))
        part = Part(kind=Kind.GENERATOR, name="grey", distribution="d", version="1")
        return generate_set(Grey(), part, ["a road"], n=1, out=tmp_path, size=(24, 40), filters=[one]).rows

    monkeypatch.setattr(open_clip, "create_model_and_transforms", build)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: tokenize)
    assert make("strict", 0.25) == ()
    assert make("strict", 0.75) == ()  # is not tried again
    (row,) = make("kind", 0.75)
    assert row.scores == {"clip:ViT-B-32/kind": 0.75}
    assert row.filters == {"clip:ViT-B-32/kind": 0.5}


def test_a_threshold_that_is_no_cosine_is_refused(model: torch.nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"the minimum score is 25; expected a cosine in -1\.\.1"):
        ClipFilter(model, preprocess, tokenize, 25)


def test_unknown_models_and_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="open_clip has no model 'ViT-B-33'; did you mean"):
        ClipFilter.load("ViT-B-33/openai")
    with pytest.raises(WeightsError, match="CLIP 'RN50/nowhere' could not be loaded"):
        ClipFilter.load("RN50/nowhere")


def test_weights_come_from_the_folder_for_machines_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the preprocessing and the activation that the weights were trained with, though the model's are others."""
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    tag = {"hf_hub": "owner/clip/", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "RN50", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["RN50"], "openai", tag)
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    weights = tmp_path / "owner" / "clip" / "open_clip_model.safetensors"
    weights.parent.mkdir(parents=True)
    trained = open_clip.create_model("RN50", force_quick_gelu=True)
    save_file(trained.state_dict(), weights)
    one = ClipFilter.load("RN50/openai")
    pixels = torch.tensor(tag["mean"]) + torch.tensor(tag["std"])
    # 0.5, 0.7 and 0.9 as 8-bit levels are off by half a level at most.
    level = (pixels * 255).round().to(torch.uint8).expand(32, 32, 3).numpy()
    assert torch.allclose(one.preprocess(Image.fromarray(level)), torch.ones(3, 32, 32), atol=0.5 / 255 / 0.4)
    inputs = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(one.model.encode_image(inputs), trained.eval().encode_image(inputs))
    note = tmp_path / "owner" / "clip" / ".cache" / "huggingface" / "download" / f"{weights.name}.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{'c' * 40}\n{'0' * 64}\n1700000000.0\n", encoding="utf-8")
    with pytest.raises(
        WeightsError, match=rf"{weights.name}: hash is \w{{64}}, expected 0{{64}}; the file is not used"
    ):
        ClipFilter.load("RN50/openai")
