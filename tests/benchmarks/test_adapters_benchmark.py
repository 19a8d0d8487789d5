"""The rows of the adapters benchmark, on a ViT so small that its numbers mean nothing."""

import pytest

from benchmarks import adapters, table

ARMS = ("frozen", "lora, checkpointing", "rein, teacher with a full copy")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return adapters.run(ARMS, model="test_vit", size=64, repeats=2)


def test_each_arm_is_timed_and_weighed(rows: list[dict]) -> None:
    for arm in ARMS:
        found = {one["metric"]: one["p50"] for one in rows if one["provider"] == arm}
        assert found["joint step"] > 0
        assert found["peak memory, joint step"] >= found["peak memory, built"] > 0
    assert {one["repeats"] for one in rows if one["metric"] == "joint step"} == {2}


def test_a_teacher_shares_the_frozen_trunk_unless_it_has_a_copy(rows: list[dict]) -> None:
    own = {one["provider"]: one["p50"] for one in rows if one["metric"] == "teacher's own parameters"}
    trained = {one["provider"]: one["p50"] for one in rows if one["metric"] == "trained parameters"}
    assert own["frozen"] == trained["frozen"]
    assert own["rein, teacher with a full copy"] > trained["rein, teacher with a full copy"]


def test_checkpoints_hold_less_without_frozen_weights(rows: list[dict]) -> None:
    for adapter in adapters.ADAPTERS:
        for head in adapters.HEADS:
            found = {
                one["metric"]: one["p50"] for one in rows if one["provider"] == adapter and one.get("head") == head
            }
            assert found["adapter file"] < found["checkpoint without frozen weights"] < found["whole checkpoint"]


def test_every_arm_can_be_built() -> None:
    for arm in adapters.ARMS.values():
        assert adapters.joint_state(arm, "test_vit").teacher is not None


def test_the_table_has_every_arm_and_every_checkpoint(rows: list[dict]) -> None:
    text = table.adapters_table(rows)
    for arm in ARMS:
        assert f"| {arm} |" in text
    for adapter in adapters.ADAPTERS:
        for head in adapters.HEADS:
            assert f"| {adapter} | {head} |" in text
