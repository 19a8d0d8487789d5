import pytest

from clouds.core.contract.plan import PlanError, Problem
from clouds.core.system.errors import CloudsError, DataError


def test_a_message_is_one_line_whatever_names_are_in_it() -> None:
    with pytest.raises(DataError, match=r"^a\\nb\.png: not a picture$"):
        raise DataError("a\nb.png: not a picture")
    assert str(CloudsError("as it is")) == "as it is"


def test_each_problem_of_a_plan_has_a_line() -> None:
    assert str(PlanError([Problem("head", "one"), Problem("head", "two")])).count("\n") == 2
