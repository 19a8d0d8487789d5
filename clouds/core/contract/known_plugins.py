"""Components of plugin packages that are developed in this repository but installed separately."""

from __future__ import annotations

from clouds.core.contract.component import Kind

_PACKAGES = {
    (Kind.BACKBONE, "torchvision"): "clouds-torchvision",
    (Kind.REFINER, "mobile-sam"): "clouds-mobile-sam",
    (Kind.REFINER, "sam2"): "clouds-sam2",
}


def install_command(kind: Kind, name: str) -> str:
    """Command that installs the package of a component, or "" if no known package has it.

    Patterned names are looked up by family. The path is relative to a source checkout.

    >>> install_command(Kind.REFINER, "mobile-sam")
    'pip install plugins/clouds-mobile-sam'
    >>> install_command(Kind.BACKBONE, "torchvision:resnet50")
    'pip install plugins/clouds-torchvision'
    """
    package = _PACKAGES.get((kind, name.rpartition("::")[2].partition(":")[0]))
    return f"pip install plugins/{package}" if package else ""
