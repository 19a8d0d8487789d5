"""What semantic inference says to arguments that it cannot take; and where it does not run in Triton."""

from typing import Any

import pytest
import torch
from torch import Tensor

from clouds.kernels.semantic_inference import semantic_inference

SIZES = ((8, 12), (8, 12), (8, 12))


def inputs(queries: int, classes: int, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return torch.rand(queries, classes), torch.randn(queries, *cells)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("which", [0, 1])
def test_integers_are_refused(which: int) -> None:
    tensors = list(inputs(3, 2, (2, 3)))
    tensors[which] = tensors[which].int()
    name = ("class_probabilities", "mask_logits")[which]
    with pytest.raises(TypeError, match=f"{name} are torch.int32; expected a floating dtype"):
        semantic_inference(*tensors, *SIZES)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("first", "second"),
    [((3, 2), (4, 2, 3)), ((3,), (3, 2, 3)), ((3, 2), (1, 3, 2, 3)), ((3, 0), (3, 2, 3)), ((3, 2), (3, 0, 3))],
)
def test_shapes_that_do_not_fit_are_named(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"class_probabilities \(.*\) and mask_logits \(.*\); expected \"q k\" and \"q h w"
    ):
        semantic_inference(torch.rand(first), torch.rand(second), *SIZES)


@pytest.mark.usefixtures("unchecked_types")
def test_unknown_names_are_named() -> None:
    with pytest.raises(ValueError, match="postprocess 'masks-first'; expected 'merge_first' or 'masks_first'"):
        semantic_inference(*inputs(3, 2, (2, 3)), *SIZES, "masks-first")
    with pytest.raises(ValueError, match="activation 'relu'; expected 'sigmoid' or 'softmax'"):
        semantic_inference(*inputs(3, 2, (2, 3)), *SIZES, activation="relu")


def test_one_device() -> None:
    probabilities, logits = inputs(3, 2, (2, 3))
    with pytest.raises(ValueError, match="class_probabilities are on cpu and mask_logits on meta; expected one device"):
        semantic_inference(probabilities, logits.to("meta"), *SIZES)


@pytest.mark.parametrize(
    ("valid", "size"), [((9, 12), (8, 12)), ((8, 13), (8, 12)), ((0, 12), (8, 12)), ((8, 12), (8, 0))]
)
def test_sizes_that_do_not_fit_are_named(valid: tuple[int, int], size: tuple[int, int]) -> None:
    with pytest.raises(
        ValueError, match=r"valid_size \(.*\) must lie within network_size \(8, 12\), and both it and size"
    ):
        semantic_inference(*inputs(3, 2, (2, 3)), (8, 12), valid, size)


def test_labels_of_more_classes_than_they_can_name() -> None:
    with pytest.raises(ValueError, match="there are at most 255 classes, got 256; ask for scores=True"):
        semantic_inference(*inputs(3, 256, (2, 3)), *SIZES)
    assert len(semantic_inference(*inputs(3, 256, (2, 3)), *SIZES, scores=True)) == 256


@pytest.mark.parametrize(
    ("classes", "dtype", "reason"),
    [
        (2, torch.float64, "it has no kernel for float64"),
        (257, torch.float32, "its kernel takes at most 256 classes, got 257"),
    ],
)
def test_what_triton_does_not_take(classes: int, dtype: Any, reason: str) -> None:
    probabilities, logits = inputs(3, classes, (2, 3))
    with pytest.raises(ValueError, match=f"semantic_inference: backend 'triton' cannot run: {reason}"):
        semantic_inference(probabilities, logits.to(dtype), *SIZES, scores=True, backend="triton")
