import pytest
import torch

import clouds
from clouds.core.contract.records import Features, HeadOutput, Targets
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import NonFiniteError

SPECS = {f"res{i + 2}": clouds.FeatureSpec(channels=4, stride=4 * 2**i) for i in range(4)}


def test_each_query_is_one_class_for_certain() -> None:
    head = build_part("head", "linear", features=SPECS)
    maps = [torch.randn(1, 4, 16 // 2**i, 16 // 2**i) for i in range(4)]
    output = head(Features(res2=maps[0], res3=maps[1], res4=maps[2], res5=maps[3]))
    assert (output.class_logits[0].softmax(-1)[:, :-1] == torch.eye(19)).all()


@pytest.mark.parametrize("classes", [1, 2, 19])
def test_sigmoids_say_which_class_is_the_best(classes: int) -> None:
    labels = clouds.LabelSpace.from_names([f"class {index}" for index in range(classes)])
    head = build_part("head", "linear", features=SPECS, labels=labels)
    with torch.no_grad():
        head.classify.bias += 100 * torch.rand(1)  # what the softmax does not see
    maps = [torch.randn(2, 4, 16 // 2**i, 16 // 2**i) for i in range(4)]
    logits = head(Features(res2=maps[0], res3=maps[1], res4=maps[2], res5=maps[3])).mask_logits
    best, others = logits.sigmoid().sort(1, descending=True).values.split([1, classes - 1], 1)
    # float32 around 100 has steps of 8e-6, and some of these add up
    torch.testing.assert_close(best, logits.softmax(1).amax(1, keepdim=True), rtol=0, atol=1e-4)
    assert (others <= 0.5 + 1e-4).all()


def test_scores_are_probabilities() -> None:
    head = build_part("head", "linear", features=SPECS)
    output = HeadOutput(class_logits=torch.zeros(1, 19, 20), mask_logits=torch.randn(1, 19, 16, 16))
    scores = head.segment(output, (50, 60), (50, 60), scores=True)
    torch.testing.assert_close(scores.sum(0), torch.ones(50, 60))


def test_pixels_of_two_classes_do_not_count() -> None:
    head = build_part("head", "linear", features=SPECS)
    output = HeadOutput(class_logits=torch.zeros(1, 19, 20), mask_logits=torch.randn(1, 19, 8, 8))
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, :20], masks[1, 10:] = True, True
    both = Targets(labels=torch.tensor([2, 5]), masks=masks, valid=torch.ones(32, 32, dtype=torch.bool))
    alone = torch.full((32, 32), 255, dtype=torch.uint8)
    alone[:10], alone[20:] = 2, 5
    expected = head.loss(output, [Targets.from_label_map(alone)])
    torch.testing.assert_close(head.loss(output, [both]), expected, rtol=0, atol=0)


def test_losses_that_are_not_finite_name_the_images() -> None:
    head = build_part("head", "linear", features=SPECS)
    logits = torch.randn(3, 19, 8, 8)
    logits[1, 0, 0, 0] = float("nan")
    labelled = [Targets.from_label_map(torch.zeros(32, 32, dtype=torch.uint8))] * 3
    with pytest.raises(NonFiniteError, match=r"not finite for images \[1\]"):
        head.loss(HeadOutput(class_logits=torch.zeros(3, 19, 20), mask_logits=logits), labelled)
