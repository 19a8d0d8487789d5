"""The contract holds for options of the built-in heads that are not their defaults."""

import pytest

from clouds.testing import check_by_name

SMALL = {
    "queries": 12,
    "width": 64,
    "layers": 3,
    "feedforward": 64,
    "encoder_layers": 1,
    "encoder_feedforward": 64,
    "points": 64,
}


@pytest.mark.parametrize("head", ["mask2former", "mask2former-text", "mask2former-pooled"])
@pytest.mark.parametrize("option", ["geometric_ensemble", "project_inputs", "postprocess"])
def test_options_keep_the_contract(head: str, option: str) -> None:
    value = "masks_first" if option == "postprocess" else True
    check_by_name("head", head, options={**SMALL, option: value})
