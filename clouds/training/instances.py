"""Whether a run can learn one mask per segment (`data.instances`)."""

from __future__ import annotations

from collections.abc import Collection

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import ConfigError
from clouds.data.spec import find_layout, lacks_instances, parse_spec
from clouds.training.recipe import DataConfig


def check_instances(
    data: DataConfig, *, head: str, provides: Collection[str], label_space: LabelSpace, joint: bool
) -> None:
    """Refuse instances where something would not learn them, before anything is built.

    Args:
        data: the training data.
        head: name of the head, for the message.
        provides: capabilities of the head.
        label_space: the classes to learn.
        joint: whether the run has a joint phase.

    Raises:
        ConfigError: the head predicts one mask per class, the label space has no things, a source numbers no
            instances, or the run uses generated images, whose labels have none.
    """
    if not data.instances:
        return
    if "instances" not in provides:
        raise ConfigError(f"data.instances: head {head} predicts one mask per class; choose head=mask2former or eomt")
    if not any(label_space.things):
        raise ConfigError(
            f"data.instances: label space {label_space.name!r} names no things, whose instances are counted; list them "
            "in its table: things = [...]"
        )
    for spec in map(parse_spec, data.source):
        if not find_layout(spec.kind).segments:
            raise ConfigError(f"data.instances: {spec}: {lacks_instances(spec.kind)}")
    if joint and data.generated:
        raise ConfigError(
            "data.instances: labels of generated images know classes alone; train on the source alone (phase warmup), "
            "or set data.instances=false"
        )
