import random

import numpy as np
import pytest
import torch
from attrs import evolve

import clouds
from clouds.core.contract.records import Targets
from clouds.core.system.errors import NonFiniteError
from clouds.core.system.processes import Processes
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.optimizer_config import OptimizerConfig
from clouds.training.recipe import TeacherConfig
from clouds.training.samples import Sample
from clouds.training.steps import State, pseudo_targets, seed_global_generators, train_step
from clouds.training.teacher import Teacher

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "trainable": True}
CONFIG = OptimizerConfig(lr=1e-2, clip_norm=1.0)


def make_state(*, decay: float = 0.5, every: int = 1, trainable: bool = True, refiner: str | None = None) -> State:
    torch.manual_seed(0)
    pipeline = clouds.compose(
        backbone={**TINY, "trainable": trainable}, head={"name": "linear", "width": 8}, refiner=refiner, device="cpu"
    )
    pipeline.backbone.train()
    pipeline.head.train()
    optimizer = build_optimizer({"backbone": pipeline.backbone, "head": pipeline.head}, CONFIG)
    return State(
        pipeline=pipeline,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, CONFIG, steps=10),
        config=CONFIG,
        seed=0,
        teacher_config=TeacherConfig(decay=decay, every=every),
        teacher=Teacher(pipeline, decay=decay),
    )


def sample(position: int, *, generated: bool) -> Sample:
    rng = np.random.default_rng(position)
    image, clean = (torch.from_numpy(rng.integers(0, 256, (3, 32, 64), np.uint8)) for _ in range(2))
    label_map = torch.from_numpy(rng.integers(0, 3, (32, 64), np.uint8))
    return Sample(
        image=image,
        label_map=None if generated else label_map,
        clean=clean if generated else None,
        position=position,
        name=str(position),
    )


def parameters(*modules: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


def test_the_teacher_is_updated_before_the_step_from_the_student_before_it() -> None:
    state = make_state(decay=0.5)
    assert state.teacher is not None
    teacher_before = parameters(state.teacher.backbone, state.teacher.head)
    for step in range(3):
        student_before = parameters(state.pipeline.backbone, state.pipeline.head)
        train_step(state, [sample(step, generated=False)])
        expected = [0.5 * t + 0.5 * s for t, s in zip(teacher_before, student_before, strict=True)]
        teacher_before = parameters(state.teacher.backbone, state.teacher.head)
        # one multiply-add in float32, written in two orders
        torch.testing.assert_close(teacher_before, expected, rtol=1e-6, atol=1e-7)


def test_the_teacher_is_updated_only_every_so_often() -> None:
    state = make_state(decay=0.5, every=2)
    assert state.teacher is not None
    seen = []
    for step in range(4):
        train_step(state, [sample(step, generated=False)])
        seen.append(state.teacher.head.classify.weight.clone())
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[2], seen[3])


def test_a_frozen_backbone_is_shared_and_a_trainable_one_copied() -> None:
    frozen, trained = make_state(trainable=False), make_state(trainable=True)
    assert frozen.teacher is not None
    assert trained.teacher is not None
    assert frozen.teacher.backbone is frozen.pipeline.backbone
    assert trained.teacher.backbone is not trained.pipeline.backbone
    assert not any(p.requires_grad for p in trained.teacher.head.parameters())
    assert not frozen.optimizer.state


def test_the_student_learns_from_the_distorted_view_and_the_teacher_sees_the_clean_one() -> None:
    state = make_state(refiner="identity")
    one = sample(3, generated=True)
    assert one.clean is not None
    assert state.teacher is not None
    (target,) = pseudo_targets(state, [one]).values()
    assert (target.to_label_map() == state.teacher.label_maps([one.clean])[0]).all()
    same_clean = evolve(one, image=torch.zeros_like(one.image))
    assert (pseudo_targets(state, [same_clean])[3].to_label_map() == target.to_label_map()).all()
    output = state.pipeline.forward([one.image])
    expected = state.pipeline.head.loss(output, [target])["cross_entropy"].item()
    state.teacher_config = TeacherConfig(decay=1.0, every=1)
    assert train_step(state, [one])["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_refiner_has_the_last_word_and_draws_by_sample() -> None:
    state = make_state()
    seen: list[float] = []

    class Recorder(clouds.Refiner):
        def prepare(self, images):
            return [clouds.Prepared() for _ in images]

        def refine(self, images, label_maps, *, rngs, prepared=None):
            seen.extend(rng.random() for rng in rngs)
            return [Targets.from_label_map(torch.full_like(label_map, 7)) for label_map in label_maps]

    state.pipeline = clouds.compose(backbone=TINY, head="linear", refiner=Recorder(), device="cpu")
    together = pseudo_targets(state, [sample(1, generated=True), sample(2, generated=True)])
    assert [target.labels.tolist() for target in together.values()] == [[7], [7]]
    pseudo_targets(state, [sample(2, generated=True)])
    assert seen[1] == seen[2] != seen[0]


@pytest.mark.parametrize("parts", [1, 2])
def test_frozen_features_of_a_clean_view_are_computed_once_and_serve_the_pseudo_label_alone(parts: int) -> None:
    state = make_state(trainable=False)
    state.accumulate = parts
    seen: dict[str, list[torch.Tensor]] = {"backbone": [], "prepared": []}

    class Recorder(clouds.Refiner):
        def prepare(self, images):
            seen["prepared"] += images
            return [clouds.Prepared() for _ in images]

        def refine(self, images, label_maps, *, rngs, prepared=None):
            self.prepare(images)
            return [Targets.from_label_map(label_map) for label_map in label_maps]

    backbone, head = state.pipeline.backbone, state.pipeline.head
    state.pipeline = clouds.compose(backbone=backbone, head=head, refiner=Recorder(), device="cpu")
    backbone.register_forward_pre_hook(lambda module, inputs: seen["backbone"].extend(inputs[0].byte()))
    samples = [sample(position, generated=position < 3) for position in range(4)]
    train_step(state, samples)
    clean = {one.position: one.clean for one in samples if one.clean is not None}

    def found(images: list[torch.Tensor], view: torch.Tensor) -> int:
        return sum(torch.equal(image, view) for image in images)

    assert len(seen["backbone"]) == len(clean) + len(samples)
    assert all(found(seen["backbone"], view) == found(seen["prepared"], view) == 1 for view in clean.values())
    assert all(found(seen["backbone"], one.image) == 1 for one in samples)
    assert len(seen["prepared"]) == len(clean)


def test_all_processes_stop_where_one_has_a_loss_that_is_not_finite() -> None:
    class WithAnother(Processes):
        def sum(self, values: torch.Tensor) -> torch.Tensor:
            return values + 1

    state = make_state()
    state.processes = WithAnother()
    modules = (state.pipeline.backbone, state.pipeline.head)
    before = parameters(*modules)
    with pytest.raises(NonFiniteError, match=r"^step 0: the loss of another process is not finite$"):
        train_step(state, [sample(0, generated=False)])
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(*modules), strict=True))


class _Moody(torch.nn.Module):
    """A classifier whose layers have a state and draw numbers: running values, dropout, a plugin's own noise."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(8)
        self.classify = torch.nn.Conv2d(8, 19, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.dropout(self.norm(x), 0.5, self.training)
        return self.classify(x) * float(1 + np.random.rand() + random.random())


def _with_moods() -> State:
    state = make_state()
    state.pipeline.head.classify = _Moody().train()
    state.optimizer = build_optimizer({"backbone": state.pipeline.backbone, "head": state.pipeline.head}, CONFIG)
    state.schedule = build_schedule(state.optimizer, CONFIG, steps=10)
    state.teacher = Teacher(state.pipeline, decay=0.5)
    return state


def test_a_step_draws_by_seed_step_and_process_alone() -> None:
    def losses(*, seed: int = 0, rank: int = 0, disturbed: bool = False) -> list[float]:
        state = _with_moods()
        state.seed = seed
        state.processes = Processes(rank=rank)
        found = []
        for step in range(3):
            if disturbed:
                _ = torch.rand(7), np.random.rand(7), random.random()
            seed_global_generators(state)
            found.append(train_step(state, [sample(step, generated=False)])["loss"])
        return found

    assert losses() == losses(disturbed=True)
    assert losses(seed=1) != losses() != losses(rank=1)


def test_a_step_that_fails_leaves_the_student_as_it_was_and_can_be_repeated() -> None:
    disturbed, calm = _with_moods(), _with_moods()
    learner = disturbed.learner

    class Broken(torch.nn.Module):
        def forward(self, *arguments: object) -> None:
            learner(*arguments)
            raise RuntimeError("a plugin's bug")

    def tensors(state: State) -> list[torch.Tensor]:
        assert state.teacher is not None
        parts = (state.pipeline.backbone, state.pipeline.head, state.teacher.backbone, state.teacher.head)
        return [tensor.clone() for part in parts for tensor in part.state_dict().values()]

    for step in range(3):
        student = disturbed.pipeline.head.state_dict()
        before = {name: tensor.clone() for name, tensor in student.items()}
        disturbed.learner = Broken()
        with pytest.raises(RuntimeError, match="a plugin's bug"):
            train_step(disturbed, [sample(step, generated=False)])
        assert all(torch.equal(student[name], tensor) for name, tensor in before.items())
        disturbed.learner = learner
        for state in (disturbed, calm):
            seed_global_generators(state)
            train_step(state, [sample(step, generated=False)])
        assert all(map(torch.equal, tensors(disturbed), tensors(calm)))


def test_generated_images_need_a_teacher() -> None:
    state = make_state()
    state.teacher = None
    with pytest.raises(ValueError, match="generated images need a teacher"):
        train_step(state, [sample(0, generated=True)])


def test_gradients_are_clipped_over_the_full_model() -> None:
    state = make_state()
    state.config = OptimizerConfig(clip_norm=1e-3)
    numbers = train_step(state, [sample(0, generated=False)])
    assert numbers["gradient_norm"] > 1e-3
    gradients = [p.grad for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_norms_are_not_decayed_and_biases_are() -> None:
    state = make_state()
    decayed, plain = (group["params"] for group in state.optimizer.param_groups)
    head = state.pipeline.head
    assert any(p is head.classify.bias for p in decayed)
    assert any(p is head.norm.weight for p in plain)
    assert state.optimizer.param_groups[1]["weight_decay"] == 0
    trained = [p for m in (state.pipeline.backbone, head) for p in m.parameters() if p.requires_grad]
    assert len(decayed) + len(plain) == len(trained)


def test_poly_decays_to_nothing_and_constant_does_not() -> None:
    state = make_state()
    for config, expected in ((CONFIG, 1e-2), (OptimizerConfig(lr=1e-2, schedule="poly"), 1e-2 * 0.5**0.9)):
        optimizer = build_optimizer({"head": state.pipeline.head}, config)
        schedule = build_schedule(optimizer, config, steps=10)
        for _ in range(5):
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
