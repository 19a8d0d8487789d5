"""Saved pipelines: a folder with the plan as JSON and one safetensors file per module. No pickle."""

# pyright: reportUnknownVariableType=false
# (torch and safetensors are typed in parts only)

from __future__ import annotations

from pathlib import Path

from attrs import frozen
from safetensors.torch import save_file
from torch import nn

from clouds.core.errors import WeightsError
from clouds.core.files import atomic_folder
from clouds.core.plan import Plan
from clouds.core.weights import load_weights, read_safetensors

MARKER = "plan.json"


@frozen(kw_only=True)
class Checkpoint:
    """A saved pipeline that was found to be readable.

    Attributes:
        folder: where it lies.
        plan: what to build.
        trained: whether the head was trained.
    """

    folder: Path
    plan: Plan
    trained: bool

    def restore(self, backbone: nn.Module, head: nn.Module) -> None:
        """Load the saved weights. Raises `WeightsError` when they do not fit."""
        for name, module in (("backbone", backbone), ("head", head)):
            path = self.folder / f"{name}.safetensors"
            state, _ = read_safetensors(path)
            load_weights(module, state, source=str(path))


def save_checkpoint(folder: str | Path, *, plan: Plan, backbone: nn.Module, head: nn.Module, trained: bool) -> None:
    """Write a checkpoint in one piece; an earlier checkpoint at the same place is replaced."""
    with atomic_folder(folder, marker=MARKER) as temporary:
        for name, module in (("backbone", backbone), ("head", head)):
            state = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
            save_file(state, temporary / f"{name}.safetensors", metadata={"trained": str(trained)})
        (temporary / MARKER).write_text(plan.to_json(), encoding="utf-8")


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read what a checkpoint says about itself, without its weights.

    Raises:
        WeightsError: the folder has no plan, or the plan is damaged.
    """
    folder = Path(folder)
    marker = folder / MARKER
    if not marker.is_file():
        below = sorted(str(path.parent) for path in folder.glob(f"*/{MARKER}"))
        hint = f"; saved pipelines lie in {', '.join(below)}" if below else ""
        raise WeightsError(f"{folder}: no saved pipeline here ({MARKER} is missing){hint}")
    try:
        plan = Plan.from_json(marker.read_text(encoding="utf-8"))
    except (WeightsError, UnicodeDecodeError) as error:
        raise WeightsError(f"{marker}: {error}") from error
    _, metadata = read_safetensors(folder / "head.safetensors")
    return Checkpoint(folder=folder, plan=plan, trained=metadata.get("trained") == "True")
