import pytest

from clouds.core.system.config import structure
from clouds.core.system.errors import ConfigError
from clouds.evaluation.scores import DomainScores, Evaluation, as_numbers

DAY = DomainScores(images=3, miou=60.0, iou={"road": 80.0, "sky": 40.0, "car": None})
VOID = DomainScores(images=1, miou=None, iou={"road": None, "sky": None, "car": None})


def test_scores_are_numbers_with_one_name_each_if_they_were_measured() -> None:
    found = as_numbers({"day:val": DAY, "void:val": VOID})
    assert found == {"miou/day:val": 60.0, "iou/day:val/road": 80.0, "iou/day:val/sky": 40.0}


def test_the_mean_is_over_the_measured_domains() -> None:
    assert Evaluation(step=1, domains={"day:val": DAY, "void:val": VOID}).miou == 60.0
    assert Evaluation(step=1, domains={"void:val": VOID}).miou is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"miou": 101}, "log: miou is 101.*expected at least 0 and at most 100"),
        ({"iou": {"road": float("nan")}}, "log: iou is nan; expected at least 0"),
        ({"images": -1}, "log: images is -1; expected at least 0"),
        ({"classes": {}}, r"log: extra fields found \(classes\)"),
    ],
)
def test_scores_of_a_strange_file_are_percentages(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        structure({"images": 1, "miou": 1.0, "iou": {"road": 1.0}, **change}, DomainScores, source="log")
