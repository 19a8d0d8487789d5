"""Runs with made scores for tests of comparisons."""

from clouds.evaluation.scores import DomainScores, Evaluation, ScoredRun


def scores(day: float | None, night: float | None) -> dict[str, DomainScores]:
    """Two domains; the first labels a class that the second lacks."""
    return {
        "day:val": DomainScores(images=3, miou=day, iou={"road": day, "sky": day, "<car>": None}),
        "night:val": DomainScores(images=2, miou=night, iou={"road": night, "sky": None, "<car>": None}),
    }


def scored_run(name: str, *points: tuple[int, float, float], seed: int = 0, **recipe: object) -> ScoredRun:
    """A run with (step, mIoU by day, mIoU by night)."""
    settings = {"model": {"head": "linear"}, "optimizer": {"lr": 0.1}, "data": {"workers": 0}}
    return ScoredRun(
        name=name,
        recipe={**settings, **recipe, "seed": seed},
        evaluations=[Evaluation(step=step, domains=scores(day, night)) for step, day, night in points],
    )


def two_arms() -> list[ScoredRun]:
    """Two seeds of each recipe: after 20 steps 55 and 57 against 60 and 66 in the mean of the domains."""
    faster = {"optimizer": {"lr": 0.2}}
    return [
        scored_run("base-0", (10, 50, 40), (20, 60, 50)),
        scored_run("base-1", (10, 62, 60), (20, 62, 52), seed=1),
        scored_run("faster-s0", (10, 10, 10), (20, 70, 50), **faster),
        scored_run("faster-s1", (20, 72, 60), (30, 0, 0), seed=1, **faster),
    ]
