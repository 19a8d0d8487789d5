from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import clouds
from clouds.core.contract.interfaces import ImageGenerators
from clouds.core.contract.records import Features, HeadOutput, Targets
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import NonFiniteError
from clouds.heads.criterion import Criterion, Weights
from clouds.heads.mask_products import mask_products
from clouds.heads.matcher import assign
from clouds.heads.points import RandomPoints, least_certain
from clouds.kernels.point_sample import point_sample

SPECS = {f"res{i + 2}": clouds.FeatureSpec(channels=8 * (i + 1), stride=4 * 2**i) for i in range(4)}
SMALL = {"name": "mask2former", "queries": 20, "width": 64, "layers": 4, "feedforward": 64, "points": 200}
SMALL |= {"encoder_layers": 1, "encoder_feedforward": 64}
WEIGHTS = Weights(class_=2.0, mask=5.0, dice=5.0, no_object=0.1)


def features(batch: int = 2, height: int = 64, width: int = 96) -> Features:
    maps = [torch.randn(batch, 8 * (i + 1), height // (4 * 2**i), width // (4 * 2**i)) for i in range(4)]
    return Features(res2=maps[0], res3=maps[1], res4=maps[2], res5=maps[3])


def targets(batch: int = 2, height: int = 64, width: int = 96) -> list[Targets]:
    return [Targets.from_label_map(torch.randint(0, 4, (height, width), dtype=torch.uint8)) for _ in range(batch)]


def test_intermediate_masks_are_made_in_training_only_and_the_result_is_the_same() -> None:
    head = build_part("head", SMALL, features=SPECS)
    inputs = features()
    training = head.train()(inputs)
    evaluation = head.eval()(inputs)
    assert len(training.auxiliary) == 4
    assert evaluation.auxiliary == ()
    torch.testing.assert_close(training.mask_logits, evaluation.mask_logits, rtol=0, atol=0)


def test_attention_masks_equal_resized_mask_logits() -> None:
    """Interpolation is linear: masks of resized features are resized masks (to float32 rounding of 16-term sums)."""
    embed, maps = torch.randn(1, 5, 16), torch.randn(1, 16, 32, 48)
    resized = functional.interpolate(maps, size=(8, 12), mode="bilinear", align_corners=False)
    direct = functional.interpolate(
        torch.einsum("bqc,bchw->bqhw", embed, maps), size=(8, 12), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(torch.einsum("bqc,bchw->bqhw", embed, resized), direct, rtol=0, atol=2e-5)


@given(queries=st.integers(3, 5), count=st.integers(0, 3), seed=st.integers(0, 999))
def test_assignment_is_the_cheapest(queries: int, count: int, seed: int) -> None:
    cost = torch.randn(queries, count, generator=torch.Generator().manual_seed(seed))
    rows, columns = assign(cost, image=0)
    best = min(sum(cost[q, t].item() for t, q in enumerate(p)) for p in permutations(range(queries), count))
    np.testing.assert_allclose(cost[rows, columns].sum().item(), best, rtol=1e-5, atol=1e-6)


def test_costs_that_are_not_finite_name_the_image() -> None:
    with pytest.raises(NonFiniteError, match="matching cost of image 3 of the batch is not finite"):
        assign(torch.tensor([[float("nan")]]), image=3)


def output(batch: int, queries: int = 6, classes: int = 4, height: int = 16, width: int = 24) -> HeadOutput:
    return HeadOutput(
        class_logits=torch.randn(batch, queries, classes + 1, requires_grad=True),
        mask_logits=torch.randn(batch, queries, height, width, requires_grad=True),
    )


def test_perfect_masks_cost_nothing() -> None:
    label_map = torch.randint(0, 4, (64, 96), dtype=torch.uint8)
    label_map = label_map[::16, ::16].repeat_interleave(16, 0).repeat_interleave(16, 1)
    target = Targets.from_label_map(label_map)
    masks = functional.interpolate(target.masks[None].float(), scale_factor=0.25)[0] * 200 - 100
    logits = torch.full((1, len(target.labels), 5), -100.0)
    logits[0, torch.arange(len(target.labels)), target.labels] = 100.0
    corners = torch.rand(1, 500, 2)
    centers = (torch.floor(corners * torch.tensor([6.0, 4.0])) + 0.5) / torch.tensor([6.0, 4.0])
    terms = Criterion(weights=WEIGHTS, points=500, ignored="exclude")(
        HeadOutput(class_logits=logits, mask_logits=masks[None]), [target], points=centers
    )
    assert {name: round(term.item(), 4) for name, term in terms.items()} == {"class": 0, "mask": 0, "dice": 0}


def test_ignored_pixels_do_not_count() -> None:
    """Whatever a mask says inside the ignored half, the loss is the same (points are fixed, so exactly the same)."""
    label_map = torch.randint(0, 4, (64, 96), dtype=torch.uint8)
    label_map[:, 40:] = 255
    target = Targets.from_label_map(label_map)
    made, points = output(1), torch.rand(1, 300, 2)
    changed = made.mask_logits.detach().clone()
    changed[..., 12:] += 3.0 * torch.randn_like(changed[..., 12:])
    criterion = Criterion(weights=WEIGHTS, points=300, ignored="exclude")
    before = criterion(made, [target], points=points)
    after = criterion(HeadOutput(class_logits=made.class_logits, mask_logits=changed), [target], points=points)
    assert {n: t.item() for n, t in before.items()} == {n: t.item() for n, t in after.items()}


def test_an_image_without_labels_still_trains_the_classes() -> None:
    nothing = Targets.from_label_map(torch.full((64, 96), 255, dtype=torch.uint8))
    made = output(1)
    terms = Criterion(weights=WEIGHTS, points=50, ignored="exclude")(made, [nothing])
    assert terms["mask"].item() == terms["dice"].item() == 0
    sum(terms.values()).backward()
    assert made.class_logits.grad.abs().sum() > 0


def test_losses_that_are_not_finite_are_named() -> None:
    made = output(1)
    broken = HeadOutput(class_logits=made.class_logits, mask_logits=made.mask_logits.detach().clone())
    nothing = Targets.from_label_map(torch.full((64, 96), 255, dtype=torch.uint8))
    broken.mask_logits[0, 0] = float("inf")
    message = r"loss terms \['mask', 'dice'\] are not finite: the network's output for images \[0\] of the batch is NaN"
    with pytest.raises(NonFiniteError, match=message):
        Criterion(weights=WEIGHTS, points=50, ignored="exclude")(broken, [nothing])


def test_the_loss_is_repeatable_with_a_generator() -> None:
    head = build_part("head", SMALL, features=SPECS).train()
    made, wanted = head(features()), targets()
    first, second = (head.loss(made, wanted, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert {n: t.item() for n, t in first.items()} == {n: t.item() for n, t in second.items()}
    assert len(first) == 3 * 5


def test_random_points_lie_where_logits_are_small() -> None:
    ramp = torch.linspace(-10, 10, 64).expand(3, 64, 64).contiguous()  # zero in the middle column
    drawn = RandomPoints.draw(
        400, torch.Generator().manual_seed(0), layers=[0], masks=[2, 1], device=torch.device("cpu")
    )
    points = drawn.loss(0, ramp, torch.tensor([0, 0, 1]))
    assert points.shape == (3, 400, 2)
    distance = (points[..., 0] - 0.5).abs()
    # 300 of 1200 candidates lie within 1/8 of the middle, but for some at the edges, where outside of the map is 0
    assert (distance[:, :300] < 0.2).float().mean() > 0.9
    assert distance.mean() < (drawn.matching(0, 1, ramp)[:, 0] - 0.5).abs().mean()


@given(seed=st.integers(0, 999), count=st.integers(1, 50))
def test_the_least_certain_are_in_order(seed: int, count: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, points = torch.randn(2, 9, 7, generator=random), torch.rand(2, 50, 2, generator=random) * 1.2 - 0.1
    points[0, 3] = torch.nan  # sorts last
    found = least_certain(logits, points, count)
    certainty = point_sample(logits[:, None], points)[:, 0].abs()
    chosen = point_sample(logits[:, None], found)[:, 0].abs()
    torch.testing.assert_close(chosen, certainty.topk(count, largest=False).values, rtol=0, atol=0, equal_nan=True)


def test_points_are_drawn_where_masks_are() -> None:
    """The kind "meta" has no generators and no numbers: a draw for it that asked a CPU would not lie there."""
    drawn = RandomPoints.draw(8, None, layers=[0], masks=[2, 1], device=torch.device("meta"))
    (candidates, others), costs = drawn.layers[0].losses[0], drawn.layers[0].costs
    assert {one.device.type for one in (candidates, others, *costs)} == {"meta"}


@pytest.mark.gpu
def test_an_image_draws_the_same_points_in_any_batch_on_cuda() -> None:
    device = torch.device("cuda")
    whole = RandomPoints.draw(8, ImageGenerators([3, 1, 4]), layers=[0, 1], masks=[2, 0, 1], device=device)
    alone = RandomPoints.draw(8, ImageGenerators([4]), layers=[0, 1], masks=[1], device=device)
    for layer in (0, 1):
        drawn, same = whole.layers[layer], alone.layers[layer]
        assert drawn.costs[2].device.type == "cuda"
        assert torch.equal(drawn.costs[2], same.costs[0])
        assert torch.equal(drawn.losses[1][0], same.losses[0][0])
        assert not torch.equal(drawn.costs[1], drawn.costs[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masks_without_a_gradient_are_left_out_of_products_alone(dtype: torch.dtype) -> None:
    """Two layers, of which one has no gradient, and two images with other rows: all as `einsum` differentiates."""
    random = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 3, 5), (2, 6, 4), (2, 6, 4), (2, 6, 4))
    leaves = [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]
    direction = torch.randn(2, 6, 3, 5, generator=random, dtype=torch.float64).to(dtype)
    direction[0, 1:4], direction[1, 3:], direction[1, 0] = 0, 0, torch.nan
    found, expected = (
        torch.autograd.grad([masks[0], masks[2]], leaves, [direction, 2 * direction], materialize_grads=True)
        for masks in (
            mask_products(leaves[0], leaves[1:]),
            [torch.einsum("bqc,bchw->bqhw", one, leaves[0]) for one in leaves[1:]],
        )
    )
    # sums of at most 24 products, in another order
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=24 * 8 * torch.finfo(dtype).eps)
    assert found[0][1].isnan().all()
    assert found[0][0].isfinite().all()


def test_costs_and_pairs_of_all_layers_move_between_devices_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [output(2) for _ in range(3)]
    whole = HeadOutput(class_logits=made[2].class_logits, mask_logits=made[2].mask_logits, auxiliary=(made[0], made[1]))
    copies: list[tuple[int, ...]] = []
    to_cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (copies.append(tuple(tensor.shape)), to_cpu(tensor))[1])
    wanted = targets()
    Criterion(weights=WEIGHTS, points=50, ignored="exclude")(whole, wanted)
    assert copies == [(3, 6, sum(len(target.labels) for target in wanted))]


@pytest.mark.parametrize(("name", "steps"), [("linear", 150), ("fpn", 50), (SMALL, 50)])
def test_a_few_steps_fit_one_image(name: object, steps: int) -> None:
    """The head, its loss and its merge belong together: after fitting one image the segmentation is that image's."""
    torch.manual_seed(0)
    head = build_part("head", name, features=SPECS).train()
    label_map = torch.zeros(64, 96, dtype=torch.uint8)
    label_map[:, 48:] = 3
    label_map[40:] = 7
    inputs, wanted = features(1), [Targets.from_label_map(label_map)]
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for step in range(steps):
        loss = torch.stack(
            list(head.loss(head(inputs), wanted, generator=torch.Generator().manual_seed(step)).values())
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    segmentation = head.eval().segment(head(inputs).image(0), (64, 96), (64, 96))
    assert (segmentation == label_map).float().mean() > 0.95


@pytest.mark.parametrize("sort", ["mask2former", "mask2former-pooled"])
def test_a_step_in_reduced_precision(sort: str) -> None:
    """Layers in bfloat16, costs and losses in float32: also where the loss, too, is computed within autocast."""
    head = build_part("head", {**SMALL, "name": sort}, features=SPECS).train()
    inputs, wanted, totals = features(), targets(), []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = head(inputs)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            terms = head.loss(made, wanted, generator=torch.Generator().manual_seed(5))
        totals.append(torch.stack(list(terms.values())).sum())
    assert made.mask_logits.dtype == torch.bfloat16
    assert totals[0].dtype == torch.float32
    assert totals[0].item() == totals[1].item()
    totals[0].backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_segmentation_of_reduced_precision_is_merged_in_float32() -> None:
    head, made = build_part("head", SMALL, features=SPECS), output(1, classes=19)
    classes, masks = made.class_logits.detach().bfloat16(), made.mask_logits.detach().bfloat16()
    half = HeadOutput(class_logits=classes, mask_logits=masks)
    single = HeadOutput(class_logits=classes.float(), mask_logits=masks.float())
    answers = [head.segment(one, (60, 90), (33, 91), scores=True) for one in (half, single)]
    assert torch.equal(*answers)


def test_every_image_needs_its_targets() -> None:
    criterion = Criterion(weights=WEIGHTS, points=50, ignored="exclude")
    with pytest.raises(ValueError, match="loss: 1 targets for a batch of 2 images; one for each"):
        criterion(output(2), targets(1))
