"""Tables of training runs: arms over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.markdown import markdown_table
from benchmarks.rows import Row, latest
from clouds.evaluation.rank_correlation import Candidate, correlation_table
from clouds.evaluation.spread import Spread


def demo_table(rows: Iterable[Row]) -> str:
    """mIoU of each arm and domain over the seeds, and the gains of CLOUDS seed by seed; the mean shows every seed."""
    found = [one for one in latest(rows) if one["metric"] == "mIoU" and one["domain"] != "generated"]
    domains = list(dict.fromkeys(one["domain"] for one in found))
    values: dict[str, dict[str, dict[int, float]]] = {}
    for one in sorted(found, key=lambda one: one["seed"]):
        values.setdefault(one["provider"], {}).setdefault(one["domain"], {})[one["seed"]] = one["p50"]
    for before in [arm for arm in values if arm.endswith(": source only")]:
        title = before.removesuffix(": source only")
        after = values[f"{title}: CLOUDS"]
        values[f"{title}: gain"] = {
            domain: {seed: after[domain][seed] - value for seed, value in seeds.items()}
            for domain, seeds in values[before].items()
        }
    cells = [
        (arm, *(_over_seeds(of[domain], each=domain == "mean") for domain in domains)) for arm, of in values.items()
    ]
    return markdown_table(("mIoU in percent", *domains), cells)


def _over_seeds(values: Mapping[int, float], *, each: bool) -> str:
    spread = f"{Spread.over(list(values.values()))}"
    return f"{', '.join(f'{value:.1f}' for value in values.values())}: {spread}" if each else spread


def ablation_table(rows: Iterable[Row]) -> str:
    """mIoU of each arm over the seeds, and its gains over source-only arms, seed by seed."""
    arms, start = dict[str, dict[int, float]](), dict[str, str]()  # by provider; the source arm of each ablation
    for one in _scored(rows):
        ablation, arm = one["arm"].split("/")
        arms.setdefault(one["provider"], {})[one["seed"]] = one["p50"]
        start |= {ablation: one["provider"]} if arm == "source" else {}
    base = next(iter(arms.values()), {})
    own = {one["provider"]: arms[start[one["arm"].split("/")[0]]] for one in _scored(rows)}
    cells = [
        (
            name,
            ", ".join(f"{value:.1f}" for _, value in sorted(found.items())),
            str(Spread.over(list(found.values()))),
            *(_gain(found, other) for other in (base, own[name])),
        )
        for name, found in arms.items()
    ]
    header = (
        "arm",
        "mIoU in percent, by seed",
        "mean",
        "gain over the first",
        "over its own source only",
    )
    return markdown_table(header, cells)


def _gain(found: Mapping[int, float], base: Mapping[int, float]) -> str:
    return "" if found is base else f"{Spread.over([found[seed] - base[seed] for seed in found if seed in base])}"


def ablation_classes_table(rows: Iterable[Row]) -> str:
    """IoU of each class by arm, mean over the seeds; below, the correct pixels of the first teacher."""
    rows, found = list(rows), dict[str, list[dict[str, float]]]()
    for one in _scored(rows):
        found.setdefault(one["provider"], []).append(one["classes"])
    teacher = {one["provider"]: [one["classes"]] for one in latest(rows) if "seeds" in one}
    names = next(iter(found.values()), [{}])[0]
    cells = [
        (f"{who}{', correct pixels' if who in teacher else ''}", *(_class_mean(made, name) for name in names))
        for who, made in {**found, **teacher}.items()
    ]
    return markdown_table(("IoU in percent", *names), cells)


def _class_mean(made: Sequence[Mapping[str, float]], name: str) -> str:
    return f"{sum(one[name] for one in made) / len(made):.1f}"


def label_free_table(rows: Iterable[Row]) -> str:
    """How well each label-free score ranks the checkpoints of the arms that have not seen the target's labels."""
    known = [
        Candidate(
            name=f"{one['provider']}, seed {one['seed']}",
            group=one["provider"],
            scores=one["label_free"],
            miou=one["p50"],
        )
        for one in _scored(rows)
        if not one["arm"].endswith("/ceiling")
    ]
    if not known:
        return markdown_table((), ())
    note, header, cells = correlation_table(known)
    shown = [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in line] for line in cells]
    return f"{markdown_table(header, shown)}\n\n{note[0].upper()}{note[1:]}."


def _scored(rows: Iterable[Row]) -> list[Row]:
    return [one for one in latest(rows) if "seed" in one]
