"""The text classifier: prompts, averaging, cache."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import clouds
from clouds.core.contract.interfaces import TextEncoder
from clouds.core.pipeline.text import TEMPLATES, build_classifier, embed_labels, prompts
from clouds.core.weights.tensor_cache import DamagedCacheWarning

LABELS = clouds.LabelSpace.from_names(["road", "sky"], synonyms=[["road", "street"], ["sky"]])


class Letters(TextEncoder):
    """Embeds a text by counts of its letters; counts its own calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.scale = torch.ones(26)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        self.calls += 1
        counts = [[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts]
        return torch.tensor(counts, dtype=torch.float32).reshape(-1, 26) * self.scale

    def text_weights(self) -> dict[str, Tensor]:
        return {"scale": self.scale}


def made(encoder: Letters, cache: Path | None, labels: clouds.LabelSpace = LABELS) -> clouds.TextClassifier:
    return build_classifier(encoder, labels, trained=labels, model="letters", cache=cache)


def test_each_word_is_the_normalised_mean_of_normalised_prompts() -> None:
    encoder = Letters()
    words = []
    for word in ("road", "street", "sky"):
        vectors = encoder.embed_text([template.format(word) for template in TEMPLATES])
        mean = torch.stack([vector / vector.norm() for vector in vectors]).mean(0)
        words.append(mean / mean.norm())
    torch.testing.assert_close(embed_labels(encoder, LABELS), torch.stack(words), rtol=1e-5, atol=1e-6)
    assert len(prompts(LABELS)) == 3 * len(TEMPLATES)


def test_the_classifier_knows_which_word_is_whose() -> None:
    classifier = made(Letters(), None)
    assert classifier.class_of.tolist() == [0, 0, 1]
    assert classifier.seen.tolist() == [True, True]
    assert classifier.logit_scale == 100.0
    assert classifier.pooler is None


def test_embeddings_are_computed_once_per_model_weights_and_words(tmp_path: Path) -> None:
    encoder = Letters()
    first = made(encoder, tmp_path)
    assert torch.equal(made(encoder, tmp_path).embeddings, first.embeddings)
    assert encoder.calls == 1
    made(encoder, tmp_path, clouds.LabelSpace.from_names(["road"]))
    encoder.scale = torch.arange(26.0)
    changed = made(encoder, tmp_path)
    assert encoder.calls == 3
    assert not torch.equal(changed.embeddings, first.embeddings)
    build_classifier(encoder, LABELS, trained=LABELS, model="others", cache=tmp_path)
    assert encoder.calls == 4


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    encoder = Letters()
    first = made(encoder, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.warns(DamagedCacheWarning, match=r"cached\.safetensors: not as it was put into the cache"):
        assert torch.equal(made(encoder, tmp_path).embeddings, first.embeddings)
    assert encoder.calls == 2
    made(encoder, tmp_path)
    assert encoder.calls == 2


def test_the_cache_keeps_a_bounded_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(Letters(), tmp_path, clouds.LabelSpace.from_names(["one"]))
    (path,) = tmp_path.glob("*.safetensors")
    monkeypatch.setattr("clouds.core.pipeline.text._CACHE_BYTES", 2 * path.stat().st_size)
    for name in ("two", "six", "ten"):
        made(Letters(), tmp_path, clouds.LabelSpace.from_names([name]))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_classifier_made_in_inference_mode_can_be_trained_with() -> None:
    with torch.inference_mode():
        classifier = made(Letters(), None)
    x = torch.randn(2, 26, requires_grad=True)
    (functional.normalize(x, dim=-1) @ classifier.embeddings.T).sum().backward()
    assert x.grad is not None
    assert not classifier.class_of.is_inference()
    assert not classifier.seen.is_inference()


def test_embeddings_read_in_inference_mode_can_be_trained_with(tmp_path: Path) -> None:
    made(Letters(), tmp_path)
    with torch.inference_mode():
        assert not made(Letters(), tmp_path).embeddings.is_inference()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    encoder = Letters()
    assert torch.equal(made(encoder, tmp_path / "file").embeddings, made(encoder, None).embeddings)
    assert encoder.calls == 2


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from clouds.core.system.files import cache_folder

    monkeypatch.setenv("CLOUDS_CACHE", str(tmp_path))
    assert cache_folder("text") == tmp_path / "text"
    monkeypatch.delenv("CLOUDS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder("text") == tmp_path / "user" / "clouds" / "text"
