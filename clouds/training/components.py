"""The built-in trackers, as the catalog sees them."""

from __future__ import annotations

from clouds.core.contract.hookspecs import hookimpl


@hookimpl
def clouds_trackers() -> list[tuple[str, str]]:
    return [
        ("tensorboard", "clouds.training.tracking:TensorBoard"),
        ("wandb", "clouds.training.tracking:WeightsAndBiases"),
    ]
