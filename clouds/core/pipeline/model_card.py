"""The model card of a pushed pipeline: how to load it, its parts and their licences, scores, recipe."""

# pyright: reportUnknownMemberType=false
# (huggingface_hub has incomplete types)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import BUILT_IN, Kind
from clouds.core.contract.plan import Part
from clouds.core.pipeline.checkpoint import Checkpoint
from clouds.core.pipeline.trust import NETWORKS
from clouds.core.system.config import parse_json, to_toml
from clouds.core.system.errors import CloudsError, ConfigError

CARD, PICTURE = "README.md", "prediction.png"


@runtime_checkable
class Scores(Protocol):
    """What a card shows of an evaluation, such as a `clouds.Report`."""

    @property
    def settings(self) -> str:
        """The protocol, in words."""
        ...

    @property
    def per_domain(self) -> Mapping[str, float | None]:
        """mIoU by domain, in percent."""
        ...


def model_card(
    name: str,
    checkpoint: Checkpoint,
    *,
    recipe: str | Path | None,
    reports: Sequence[Scores],
    picture: bool,
    catalog: Catalog | None = None,
) -> str:
    """The text of a README.md with the hub's metadata.

    Args:
        name: `owner/name` of the repository.
        checkpoint: the pipeline.
        recipe: `recipe.json` of its training run, or None.
        reports: its evaluations.
        picture: whether the repository has `PICTURE`.
        catalog: catalog with the licences; see `clouds.compose`.

    Raises:
        ConfigError: the recipe is no JSON object, or cannot be read.
    """
    plan = checkpoint.plan
    sections = [
        _metadata(name, reports),
        f"# {name}",
        f"Semantic segmentation into {len(plan.labels)} classes ({plan.labels.name}): {', '.join(plan.labels.names)}.",
        "" if checkpoint.trained else "**The head has not been trained: its predictions mean nothing.**",
        f"![A prediction of this pipeline]({PICTURE})" if picture else "",
        _usage(name, checkpoint),
        _results(reports),
        _licences(checkpoint, catalog or Catalog.from_environment()),
        f"## Plan\n\n```text\n{plan}\n```",
        "" if recipe is None else f"## Training\n\n```toml\n{to_toml(_read_recipe(recipe)).rstrip()}\n```",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(name: str, reports: Sequence[Scores]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=domain,
            dataset_name=domain,
            metric_type="mean_iou",
            metric_name=f"mIoU ({report.settings})",
            metric_value=round(value, 2),
        )
        for report in reports
        for domain, value in report.per_domain.items()
        if value is not None
    ]
    data = ModelCardData(
        library_name="clouds",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "domain-generalization"],
        model_name=name.rpartition("/")[2],
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def own_modules(checkpoint: Checkpoint) -> list[str]:
    """The networks that were ready modules, which `clouds.load` needs again."""
    return [part.kind.value for part in checkpoint.plan.parts.values() if part.ready and part.kind in NETWORKS]


def load_call(name: str, checkpoint: Checkpoint) -> str:
    """The call that loads the pipeline from the hub."""
    own = ", ".join(f'"{kind}": {kind}' for kind in own_modules(checkpoint))
    ready = f", ready={{{own}}}" if own else ""
    trust = "" if checkpoint.published is None else ', trust=("backbone",)'
    return f'clouds.load("{name}"{ready}{trust})'


def _usage(name: str, checkpoint: Checkpoint) -> str:
    parts = [part for part in checkpoint.plan.parts.values() if part.distribution]
    needed = sorted({f"{part.distribution} {part.version}".strip() for part in parts})
    own = own_modules(checkpoint)
    lines = [
        "## Use",
        "",
        "```python",
        "import clouds",
        "",
        f"pipeline = {load_call(name, checkpoint)}",
        'pipeline.predict("street.jpg").overlay().save("overlay.png")',
        "```",
        "",
        f"It was saved with {', '.join(needed) or BUILT_IN}.",
    ]
    if own:
        lines.append(
            f"Its {' and '.join(own)} is a module of the author's own: make it as the author did, and pass it."
        )
    if checkpoint.published is not None:
        lines.append("The weights of its frozen backbone are the published ones, and are downloaded from their source.")
    return "\n".join(lines)


def _results(reports: Sequence[Scores]) -> str:
    tables = [_table(("domain", "mIoU in percent"), list(_scores(report))) for report in reports]
    texts = [f"{report.settings}:\n\n{table}" for report, table in zip(reports, tables, strict=True)]
    return "\n\n".join(["## Results", *texts]) if texts else ""


def _scores(report: Scores) -> list[tuple[str, str]]:
    return [(name, "-" if value is None else f"{value:.1f}") for name, value in report.per_domain.items()]


def _licences(checkpoint: Checkpoint, catalog: Catalog) -> str:
    parts = checkpoint.plan.parts.values()
    rows = [(part.kind.value, part.title, _licence(part, catalog), _place(part, checkpoint)) for part in parts]
    return (
        f"## Parts and licences\n\n{_table(('part', 'component', 'licence of its weights', 'weights'), rows)}\n\n"
        "The licences are those of published weights that the parts start from; they may restrict the trained weights."
    )


def _place(part: Part, checkpoint: Checkpoint) -> str:
    if part.kind not in NETWORKS:
        return "used for training only: not in this repository"
    omitted = part.kind == Kind.BACKBONE and checkpoint.published is not None
    return "published: not in this repository" if omitted else "in this repository"


def _licence(part: Part, catalog: Catalog) -> str:
    if part.ready:
        return "a module of the author's own; not stated"
    try:
        licence = catalog.entry(part.kind, part.qualified_name).component.licence
    except CloudsError:
        return f"unknown: {part.distribution} is not installed where this card was written"
    if part.options.get("pretrained") is False:
        return "random weights at the start" + (f"; the published ones: {licence}" if licence else "")
    return licence or ("not stated" if "pretrained" in part.options else "no published weights")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _read_recipe(path: str | Path) -> Mapping[str, Any]:
    try:
        document = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as the recipe of a run: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not the recipe of a run; expected a JSON object, as in recipe.json of its folder")
    return cast("Mapping[str, Any]", document)
