"""Heads that classify by text, and the geometric ensemble."""

import pytest
import torch
from attrs import evolve
from torch.nn import functional

import clouds
from clouds.core.contract.interfaces import MaskPooler, TextClassifier
from clouds.core.contract.records import Features, HeadOutput
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError
from clouds.heads.ensemble import Ensemble
from clouds.heads.text_logits import text_logits, with_void
from clouds.testing.head import random_classifier, random_features

SPECS = {f"res{i + 2}": clouds.FeatureSpec(channels=8 * (i + 1), stride=4 * 2**i) for i in range(4)}
SMALL = {"queries": 20, "width": 64, "layers": 3, "encoder_layers": 1, "points": 50}
LABELS = clouds.LabelSpace.from_names(["road", "sky", "car"], synonyms=[["road", "street"], ["sky"], ["car"]])


class Mean(MaskPooler):
    """A pooler that answers the same for every mask."""

    def pool(self, dense: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return dense.mean((-2, -1))[:, None].expand(-1, masks.shape[1], -1)


def classifier(labels: clouds.LabelSpace = LABELS, width: int = 16) -> TextClassifier:
    return evolve(random_classifier(labels, width), pooler=Mean())


def features(width: int = 16) -> Features:
    return evolve(random_features(SPECS, batch=2, height=64, width=96), dense=torch.randn(2, width, 2, 3))


def output(queries: int = 5, classes: int = 3) -> HeadOutput:
    return HeadOutput(class_logits=torch.randn(2, queries, classes + 1), mask_logits=torch.randn(2, queries, 16, 24))


def test_a_class_is_as_good_as_its_best_word() -> None:
    """Written out: cosine with every word, the larger of the two of the first class."""
    words, x = classifier(), torch.randn(2, 7, 16)
    cosine = functional.cosine_similarity(x[..., None, :], words.embeddings, dim=-1)
    expected = 30 * torch.stack((cosine[..., :2].amax(-1), cosine[..., 2], cosine[..., 3]), -1)
    torch.testing.assert_close(text_logits(x, words, 30.0), expected, rtol=0, atol=1e-5)  # 16-term float32 sums


def test_no_object_is_one_more_class() -> None:
    void = torch.randn(1, 16)
    words = with_void(classifier(), void)
    assert words.class_of.tolist() == [0, 0, 1, 2, 3]
    logits = text_logits(functional.normalize(void, dim=-1), words, 1.0)
    assert logits.shape == (1, 4)
    assert logits[0, 3].item() == pytest.approx(1, abs=1e-6)


def test_a_text_head_serves_any_label_space() -> None:
    head = build_part("head", {"name": "mask2former-text", **SMALL}, features=SPECS, text_width=16, labels=LABELS)
    many = clouds.LabelSpace.from_names([f"thing {i}" for i in range(200)])
    assert head.uses_text
    assert head.open_vocabulary
    assert head(features(), classifier()).class_logits.shape == (2, 20, 4)
    assert head(features(), classifier(many)).class_logits.shape == (2, 20, 201)


def test_a_text_head_wants_a_classifier_and_the_width_of_texts() -> None:
    part = {"name": "mask2former-text", **SMALL}
    with pytest.raises(ConfigError, match="mask2former-text needs the width of the backbone's text embeddings"):
        build_part("head", part, features=SPECS)
    head = build_part("head", part, features=SPECS, text_width=16)
    with pytest.raises(ConfigError, match="this head classifies by text, but forward got classifier=None"):
        head(features())


def test_the_width_must_divide_into_groups_and_heads() -> None:
    for width, heads in ((32, 8), (128, 7)):
        with pytest.raises(ConfigError, match=f"width={width} must be a multiple of 64 .* and of heads={heads}"):
            build_part("head", {"name": "mask2former", **SMALL, "width": width, "heads": heads}, features=SPECS)


def test_sizes_are_at_least_one() -> None:
    part = {"name": "mask2former", **SMALL, "queries": 0, "heads": 0, "points": -1}
    with pytest.raises(ConfigError, match="head: queries=0, heads=0, points=-1; expected at least 1 of each"):
        build_part("head", part, features=SPECS)


def test_the_ensemble_is_for_evaluation_and_keeps_the_masks() -> None:
    plain = build_part("head", {"name": "mask2former", **SMALL}, features=SPECS, labels=LABELS)
    joined = build_part(
        "head", {"name": "mask2former", **SMALL, "geometric_ensemble": True}, features=SPECS, labels=LABELS
    )
    joined.load_state_dict(plain.state_dict())
    assert joined.uses_text
    assert not joined.open_vocabulary
    inputs, words = features(), classifier()
    assert torch.equal(joined.train()(inputs, words).class_logits, plain.train()(inputs).class_logits)
    one, other = joined.eval()(inputs, words), plain.eval()(inputs)
    assert torch.equal(one.mask_logits, other.mask_logits)
    assert not torch.equal(one.class_logits, other.class_logits)
    torch.testing.assert_close(  # "no object" is left as it was, but for the 1e-8 before the logarithm
        one.class_logits.softmax(-1)[..., -1], other.class_logits.softmax(-1)[..., -1], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("missing", ["classifier", "pooler", "dense"])
def test_the_ensemble_says_what_it_needs(missing: str) -> None:
    words = (
        None if missing == "classifier" else evolve(classifier(), pooler=None) if missing == "pooler" else classifier()
    )
    inputs = evolve(features(), dense=None) if missing == "dense" else features()
    with pytest.raises(ConfigError, match="geometric_ensemble=True needs a backbone that pools masks and embeds texts"):
        Ensemble(alpha=0.4, beta=0.8, on_valid_mask=True)(output(), inputs, words)


def test_probabilities_that_underflow_stay_finite() -> None:
    """The published form computes log(0) x 0 here, which is not a number."""
    sure = output()
    sure.class_logits[..., 0] = 300.0
    made = Ensemble(alpha=0.0, beta=1.0, on_valid_mask=False)(sure, features(), classifier())
    assert made.class_logits.isfinite().all()


def test_empty_masks_keep_the_heads_opinion() -> None:
    empty = evolve(output(), mask_logits=torch.full((2, 5, 16, 24), -1.0))
    kept = Ensemble(alpha=0.4, beta=0.8, on_valid_mask=True)(empty, features(), classifier())
    mixed = Ensemble(alpha=0.4, beta=0.8, on_valid_mask=False)(empty, features(), classifier())
    before = empty.class_logits.softmax(-1)
    torch.testing.assert_close(kept.class_logits.softmax(-1), before, rtol=1e-4, atol=1e-6)
    assert (mixed.class_logits.softmax(-1) - before).abs().max() > 1e-3
