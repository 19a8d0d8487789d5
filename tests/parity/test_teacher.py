"""Sets 10 and 12: when the published teacher is updated, from what, and that it is not trained."""

import golden
import numpy as np
import pytest
import torch
from torch import nn

import clouds
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.optimizer_config import OptimizerConfig
from clouds.training.recipe import TeacherConfig
from clouds.training.samples import Sample
from clouds.training.steps import State, train_step
from clouds.training.teacher import Teacher

STILL = OptimizerConfig(lr=1e-30)  # the weights of the toy are given, step by step
# An update is two products and a sum, or one interpolation: each rounds at most three times, five updates long.
TOLERANCE = 5 * 3 * 2**-24


class Toy(clouds.Head):
    """The parameters of the published toy run; they see nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, 2))
        self.scalar = nn.Parameter(torch.zeros(()))

    def forward(self, features, classifier=None):
        size = features.res2.shape[-2:]
        return clouds.HeadOutput(class_logits=torch.zeros(1, 1, 20), mask_logits=torch.zeros(1, 1, *size))

    def loss(self, output, targets, *, points=None, generator=None):
        return {"toy": self.w.sum() + self.scalar}

    def segment(self, output, valid_size, size, *, scores=False):
        return torch.zeros(size, dtype=torch.uint8)


def make_state(every: int) -> State:
    pipeline = clouds.compose(backbone={"name": "tiny", "trainable": False}, head=Toy(), device="cpu")
    optimizer = build_optimizer({"head": pipeline.head}, STILL)
    return State(
        pipeline=pipeline,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, STILL, steps=5),
        config=STILL,
        seed=0,
        teacher_config=TeacherConfig(decay=0.9, every=every),
        teacher=Teacher(pipeline, decay=0.9),
    )


def sample() -> Sample:
    blank = torch.zeros(32, 32, dtype=torch.uint8)
    return Sample(image=blank.expand(3, -1, -1), label_map=blank, clean=None, position=0, name="blank")


@pytest.mark.parametrize("every", [1, 2])
def test_the_toy_run(every: int) -> None:
    """At step 0 the published code copies the student and then updates; a copy from the start and an update are the
    same. It updates before the forward pass, so a teacher has never seen the step that it labels for."""
    rows = golden.read_json("12_ema")["toy"][f"iteration_update_{every}"]
    state = make_state(every)
    head, teacher = state.pipeline.head, state.teacher
    assert isinstance(head, Toy)
    for step, row in enumerate(rows):
        with torch.no_grad():
            head.w.copy_(torch.tensor(row["student_w"]))
            head.scalar.fill_(step)
        if step == 0:
            state.teacher = teacher = Teacher(state.pipeline, decay=0.9)
        train_step(state, [sample()])
        scale = np.abs([r["student_w"] for r in rows]).max()
        np.testing.assert_allclose(teacher.head.w.numpy(), row["ema_w"], rtol=0, atol=TOLERANCE * scale)
        np.testing.assert_allclose(teacher.head.scalar.numpy(), row["ema_scalar"], rtol=0, atol=TOLERANCE * len(rows))


def test_the_whole_model_is_updated_at_the_published_steps() -> None:
    for every, run in ((1, "iteration_update_1"), (2, "iteration_update_2")):
        for row in golden.read_json("12_ema")["runs"][run]["rows"]:
            assert (f"update({row['iteration']})" in row["calls"]) == (row["iteration"] % every == 0)


def test_the_teacher_is_not_trained() -> None:
    """Without its flag OVERWRITING the published code gave teacher and SAM to the optimizer, too; as released not."""
    published = golden.read_json("10_param_groups_joint")["overwriting_True"]
    assert published["prefixes"]["sem_seg_head_ema."] == published["prefixes"]["sam."] == 0
    state = make_state(1)
    assert state.teacher is not None
    trained = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in state.pipeline.head.parameters()}
    assert not any(p.requires_grad for p in state.teacher.head.parameters())
