"""What deformable attention says to tensors that it cannot take; and where it does not run in Triton."""

from typing import Any

import pytest
import torch
from torch import Tensor

from clouds.kernels.deformable_attention import deformable_attention, deformable_sampling

SHAPES = [(3, 4), (1, 2)]


def attention(**changes: Tensor) -> dict[str, Tensor]:
    return {
        "value": torch.zeros(2, 14, 3, 16),
        "reference_points": torch.zeros(1, 5, 2, 2),
        "offsets": torch.zeros(2, 5, 3, 2, 4, 2),
        "attention_logits": torch.zeros(2, 5, 3, 2, 4),
    } | changes


def sampling(**changes: Tensor) -> dict[str, Tensor]:
    made = attention()
    return {
        "value": made["value"],
        "sampling_locations": made["offsets"],
        "attention_weights": made["attention_logits"],
    } | changes


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": zeros(14, 3, 16)}, r"expected value \(b, s, m, d\), .*; got \(14, 3, 16\), "),
        ({"attention_logits": zeros(2, 5, 3, 8)}, r"attention_logits \(b, q, m, l, p\) .*, \(2, 5, 3, 8\) and "),
        ({"offsets": zeros(2, 5, 3, 2, 4, 3)}, r"offsets of its shape and 2; got .* and \(2, 5, 3, 2, 4, 3\)"),
        (
            {"offsets": zeros(2, 5, 3, 2, 0, 2), "attention_logits": zeros(2, 5, 3, 2, 0)},
            r"with l and p at least 1, .*\(2, 5, 3, 2, 0\)",
        ),
        ({"value": zeros(1, 14, 3, 16)}, "value has 1 images and 3 heads, attention_logits 2 and 3; expected the same"),
        ({"value": zeros(2, 14, 6, 16)}, "value has 2 images and 6 heads, attention_logits 2 and 3; expected the same"),
        ({"reference_points": zeros(1, 5, 2, 3)}, r"reference_points \(1 or 2, 5, 2, 2 or 4\) .*got \(1, 5, 2, 3\)"),
        ({"reference_points": zeros(3, 5, 2, 2)}, r"reference_points \(1 or 2, 5, 2, 2 or 4\) .*got \(3, 5, 2, 2\)"),
        ({"reference_points": zeros(1, 4, 2, 2)}, r"reference_points \(1 or 2, 5, 2, 2 or 4\) .*got \(1, 4, 2, 2\)"),
        ({"reference_points": zeros(5, 2, 2)}, r"reference_points \(1 or 2, 5, 2, 2 or 4\) .*got \(5, 2, 2\)"),
    ],
)
def test_sizes_that_do_not_agree_are_named(unchecked_types: None, changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=rf"deformable_attention: .*{message}"):
        deformable_attention(spatial_shapes=SHAPES, **attention(**changes))


@pytest.mark.parametrize("shapes", [[(3, 3), (1, 2)], [(2, 7)], []])
def test_shapes_of_levels_that_do_not_fit_are_named(shapes: list[tuple[int, int]]) -> None:
    message = r"spatial_shapes .* levels and .* cells; .* have 2 levels, and value has 14 cells"
    with pytest.raises(ValueError, match=f"deformable_attention: {message}"):
        deformable_attention(spatial_shapes=shapes, **attention())
    with pytest.raises(ValueError, match=f"deformable_sampling: {message}"):
        deformable_sampling(spatial_shapes=shapes, **sampling())


@pytest.mark.parametrize("shapes", [[(14, 1), (0, 3)], [(-3, -4), (1, 2)]])
def test_levels_have_cells(shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"deformable_attention: spatial_shapes is \[.*; expected sides of at least 1"):
        deformable_attention(spatial_shapes=shapes, **attention())


@pytest.mark.parametrize("shapes", [torch.tensor(SHAPES), [(3, 4, 1), (1, 2, 1)], (3, 4, 1, 2)])
def test_shapes_in_another_form_are_named(unchecked_types: None, shapes: Any) -> None:
    message = r"spatial_shapes is .*3, 4.*; expected \(height, width\) of each level.* a tensor has \.tolist\(\)"
    with pytest.raises(TypeError, match=f"deformable_attention: {message}"):
        deformable_attention(spatial_shapes=shapes, **attention())
    with pytest.raises(TypeError, match=f"deformable_sampling: {message}"):
        deformable_sampling(spatial_shapes=shapes, **sampling())


def test_shapes_may_be_lists(unchecked_types: None) -> None:
    deformable_attention(spatial_shapes=torch.tensor(SHAPES).tolist(), **attention())


@pytest.mark.parametrize("name", ["value", "offsets", "attention_logits", "reference_points"])
def test_integers_are_refused(unchecked_types: None, name: str) -> None:
    changes = {name: attention()[name].int()}
    with pytest.raises(TypeError, match=rf"{name} (has|have) dtype torch.int32; expected a floating dtype"):
        deformable_attention(spatial_shapes=SHAPES, **attention(**changes))


@pytest.mark.parametrize("name", ["offsets", "attention_logits", "reference_points"])
def test_other_devices_are_refused(name: str) -> None:
    changes = {name: attention()[name].to("meta")}
    with pytest.raises(ValueError, match=rf"{name} (is|are) on meta, .* on cpu; move one"):
        deformable_attention(spatial_shapes=SHAPES, **attention(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": zeros(2, 14, 3, 24)}, "power of two from 16 to 128 as channels per head, got 24"),
        ({"value": zeros(2, 14, 3, 256)}, "power of two from 16 to 128 as channels per head, got 256"),
        ({"value": zeros(2, 14, 3, 16).double()}, "no kernel for float64"),
        (
            {"value": torch.empty_strided((2, 14, 3, 16), (0, 2**28, 16, 1), device="meta")},
            r"an image of \(14, 3, 16\) spans 2147483648 elements or more",
        ),
    ],
)
def test_what_triton_cannot_take_is_named_and_runs_in_plain_torch(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Tensor], message: str
) -> None:
    monkeypatch.setattr("triton.knobs.runtime.interpret", True)
    device = changes["value"].device
    moved = {name: tensor.to(device) for name, tensor in attention(**changes).items()}
    with pytest.raises(ValueError, match=f"deformable_attention: backend 'triton' cannot run: .*{message}"):
        deformable_attention(spatial_shapes=SHAPES, backend="triton", **moved)
    moved = {name: tensor.to(device) for name, tensor in sampling(**changes).items()}
    with pytest.raises(ValueError, match=f"deformable_sampling: backend 'triton' cannot run: .*{message}"):
        deformable_sampling(spatial_shapes=SHAPES, backend="triton", **moved)
    if device.type == "cpu":
        assert deformable_sampling(spatial_shapes=SHAPES, **moved).shape == (2, 5, 3 * changes["value"].shape[3])
