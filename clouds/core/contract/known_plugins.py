"""Components of packages that are developed together with the library and installed apart from it."""

from __future__ import annotations

from clouds.core.contract.component import Kind

_PACKAGES = {
    (Kind.BACKBONE, "torchvision"): "clouds-torchvision",
    (Kind.REFINER, "mobile-sam"): "clouds-mobile-sam",
    (Kind.REFINER, "sam2"): "clouds-sam2",
}


def install_command(kind: Kind, name: str) -> str:
    """The command that brings a component of such a package, or "" when none of them has it.

    A patterned name is known by its family. The path is that in a copy of the sources.

    >>> install_command(Kind.REFINER, "mobile-sam")
    'pip install plugins/clouds-mobile-sam'
    >>> install_command(Kind.BACKBONE, "torchvision:resnet50")
    'pip install plugins/clouds-torchvision'
    """
    package = _PACKAGES.get((kind, name.rpartition("::")[2].partition(":")[0]))
    return f"pip install plugins/{package}" if package else ""
