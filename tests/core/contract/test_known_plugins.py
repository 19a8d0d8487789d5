import pytest

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.known_plugins import install_command
from clouds.core.contract.plan import PlanError
from clouds.core.contract.planner import make_plan


def test_only_their_own_components_are_theirs() -> None:
    assert install_command(Kind.REFINER, "clouds-sam2::sam2") == "pip install plugins/clouds-sam2"
    assert install_command(Kind.BACKBONE, "torchvision:resnet50") == "pip install plugins/clouds-torchvision"
    assert install_command(Kind.BACKBONE, "mobile-sam") == ""
    assert install_command(Kind.REFINER, "mobil-sam") == ""


def test_a_plan_says_how_to_get_them() -> None:
    with pytest.raises(PlanError, match="unknown refiner 'mobile-sam'") as raised:
        make_plan(backbone=None, head=None, refiner="mobile-sam", catalog=Catalog())
    remedies = {problem.part: problem.remedy for problem in raised.value.problems}
    assert remedies["refiner"] == "pip install plugins/clouds-mobile-sam"
    with pytest.raises(PlanError) as raised:
        make_plan(backbone=None, head=None, refiner="mobile-sma", catalog=Catalog())
    assert {problem.part: problem.remedy for problem in raised.value.problems}["refiner"] == ""
