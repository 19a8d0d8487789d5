"""Sets 6 and 8: classification against texts, pooling, geometric ensemble, semantic output.

Set 6 is bitwise equal between runs of the published code: 1e-5 of the largest magnitude. Set 8 has a noise floor.
"""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch
from golden import assert_close
from torch import Tensor

import clouds
from clouds.core.contract.interfaces import MaskPooler, TextClassifier
from clouds.core.contract.records import Features, HeadOutput
from clouds.core.pipeline.text import TEMPLATES, prompts, seen_classes
from clouds.heads.ensemble import Ensemble
from clouds.heads.text_logits import text_logits
from clouds.kernels.mask_pool import mask_pool
from clouds.kernels.semantic_inference import semantic_inference

ORDER = 1e-6
SET_8 = 6.7e-7
# (backbone, ensemble, on_valid_mask, masks first); without the ensemble the backbone plays no part
CASES = [("convnext", 0, 0, 0), ("convnext", 0, 0, 1)]
CASES += [(backbone, 1, *case) for backbone in ("convnext", "rn") for case in ((0, 0), (1, 0), (1, 1))]


def classifier_of(embeddings: Tensor, counts: np.ndarray, **facts: object) -> TextClassifier:
    count = torch.from_numpy(counts)
    facts = {"seen": torch.ones(len(count), dtype=torch.bool), "logit_scale": 1.0, **facts}
    return TextClassifier(
        embeddings=embeddings, class_of=torch.repeat_interleave(torch.arange(len(count)), count), **facts
    )


@pytest.mark.parametrize("case", ["init", "clamped", "neg"])
def test_text_logits(case: str) -> None:
    data = golden.load("06_small_functions")
    x = torch.from_numpy(data["cl_x"]).requires_grad_()
    scale = torch.tensor(float(data[f"cl_logit_scale_{case}"])).requires_grad_()
    words = classifier_of(torch.from_numpy(data["cl_text_classifier"]), np.append(data["cl_num_templates"], 1))
    logits = text_logits(x, words, scale.exp().clamp(max=100))
    assert_close(logits, data[f"cl_out_{case}"], floor=ORDER)
    gradients = torch.autograd.grad(logits.square().sum(), (x, scale))
    for name, gradient in zip(("x", "logit_scale"), gradients, strict=True):
        assert_close(gradient, data[f"cl_grad_{name}_{case}"], floor=ORDER, what=name)


def test_mask_pooling() -> None:
    data = {key: torch.from_numpy(value) for key, value in golden.load("06_small_functions").items()}
    assert_close(mask_pool(data["mp_x"], data["mp_mask"]), data["mp_out"], floor=ORDER)
    assert_close(mask_pool(data["mp_x"], data["mp_mask_big"]), data["mp_out_big"], floor=ORDER)


def test_prompts_of_cityscapes() -> None:
    published = golden.read_json("06_class_names")
    labels = clouds.LabelSpace.named("cityscapes")
    assert list(TEMPLATES) == published["vild_prompt"]
    assert prompts(labels) == published["all_prompts_gta5"]
    for dataset in ("gta5", "synthia", "cityscapes_val", "bdd_val", "mapillary_val"):
        assert [len(group) for group in labels.synonyms] == published[dataset]["num_templates"]
        assert [list(group) for group in labels.synonyms] == published[dataset]["synonyms"]


def test_seen_classes() -> None:
    case = golden.read_json("06_class_names")["overlap_case"]

    def space(names: list[str]) -> clouds.LabelSpace:
        synonyms = [name.replace(", ", ",").split(",") for name in names]
        return clouds.LabelSpace.from_names(names, synonyms=synonyms)

    assert seen_classes(space(case["test"]), space(case["train"])) == [bool(value) for value in case["overlap"]]


class StoredPooler(MaskPooler):
    """Gives the published pooled embeddings; that a backbone's pooler equals them is tested with the backbones."""

    def __init__(self, pooled: np.ndarray) -> None:
        self.pooled = torch.from_numpy(pooled)

    def pool(self, dense: Tensor, masks: Tensor) -> Tensor:
        return self.pooled


@pytest.mark.parametrize(("backbone", "ensemble", "valid", "before"), CASES)
def test_semantic_output(backbone: str, ensemble: int, valid: int, before: int) -> None:
    data = golden.load("08_inference")
    name = f"{backbone}_ens{ensemble}_valid{valid}_before{before}"
    output = HeadOutput(
        class_logits=torch.from_numpy(data["pred_logits"]), mask_logits=torch.from_numpy(data["pred_masks"])
    )
    if ensemble:
        output = _ensembled(output, data, backbone, on_valid_mask=bool(valid))
    for index, (image, answer) in enumerate((((90, 120), (45, 61)), ((96, 128), (130, 100)))):
        logits = output.mask_logits[index]
        scores = semantic_inference(
            output.class_logits[index].softmax(-1)[:, :-1],
            logits,
            (logits.shape[1] * 4, logits.shape[2] * 4),
            image,
            answer,
            "masks_first" if before else "merge_first",
            scores=True,
        )
        assert_close(scores, data[f"{name}_semseg{index}"], floor=SET_8, what=f"image {index}")
        if f"{name}_teacher_argmax{index}" in data:
            _assert_labels(scores, data[f"{name}_teacher_argmax{index}"])


def _ensembled(output: HeadOutput, data: dict[str, np.ndarray], backbone: str, *, on_valid_mask: bool) -> HeadOutput:
    words = classifier_of(
        torch.from_numpy(data["text_classifier_without_void"]),
        data["num_templates"],
        seen=torch.from_numpy(data["category_overlapping_mask"]).bool(),
        logit_scale=min(float(np.exp(data["logit_scale"])), 100.0),
        pooler=StoredPooler(data[f"{backbone}_pooled_prediction"]),
    )
    levels = {f"res{i}": torch.zeros(2, 1, 1, 1) for i in range(2, 6)}
    features = Features(**levels, dense=torch.from_numpy(data[f"{backbone}_clip_vis_dense"]))
    return Ensemble(alpha=0.4, beta=0.8, on_valid_mask=on_valid_mask)(output, features, words)


def _assert_labels(scores: Tensor, expected: np.ndarray) -> None:
    """Labels are equal wherever the best two scores differ by more than the scores' own tolerance."""
    best = scores.topk(2, dim=0).values
    clear = (best[0] - best[1]) > 2 * 10 * SET_8 * scores.abs().max()
    assert torch.equal(scores.argmax(0)[clear], torch.from_numpy(expected).long()[clear])
    assert clear.float().mean() > 0.99
