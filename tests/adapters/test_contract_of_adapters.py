"""Every built-in adapter keeps its contract on every backbone that declares blocks, at 64 x 64."""

import pytest
from adapter_helpers import BACKBONES, adapter, backbone

from clouds.testing import check_adapter


@pytest.mark.parametrize("trunk", BACKBONES)
@pytest.mark.parametrize("name", ["rein", "lora", "soma", "none"])
def test_built_in_adapters_keep_their_contract(name: str, trunk: str) -> None:
    built = backbone(trunk)
    check_adapter(adapter(name, built, queries=(10, 16)), built)


@pytest.mark.parametrize("trunk", BACKBONES)
def test_rein_with_scale_zero_starts_at_zero(trunk: str) -> None:
    built = backbone(trunk)
    made = adapter("rein", built, scale=0.0)
    assert made.starts_at_zero
    check_adapter(made, built)
