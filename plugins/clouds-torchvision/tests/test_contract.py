"""Backbones of several families keep the contract, with random weights."""

import pytest
from clouds.testing import check_by_name

NAMES = ("resnet18", "squeezenet1_0", "mobilenet_v3_small", "swin_t", "alexnet")


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    check_by_name("backbone", f"torchvision:{name}")
