"""What `clouds list` shows besides components, as rows. Nothing here imports torch."""

from __future__ import annotations

from importlib.resources import files

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import BUILT_IN
from clouds.core.contract.labels import LabelSpace, built_in_names
from clouds.core.contract.offers import OfferKind
from clouds.data.layouts import LAYOUTS
from clouds.evaluation.protocols import BENCHMARKS, PROTOCOLS
from clouds.training.recipe import recipe_names

Row = dict[str, str]


def list_rows(word: str) -> list[Row]:
    """The rows of one list; `word` is one of `clouds.cli.options.LISTS`."""
    if word == "protocol":
        return [{"name": one.name, "settings": str(one), "source": one.source} for one in PROTOCOLS.values()]
    return _benchmarks() if word == "benchmark" else _offered(OfferKind.of_word(word))


def _benchmarks() -> list[Row]:
    return [
        {
            "name": one.name,
            "sources": " ".join(one.sources),
            "evaluated sets": " ".join(f"{kind}:{folder}:{split}" for kind, folder, split in one.targets),
            "classes": one.classes,
            "protocol": one.protocol,
            "source": one.source,
        }
        for one in BENCHMARKS.values()
    ]


def _offered(kind: OfferKind) -> list[Row]:
    """Built-ins, then those of plugins; built-in trackers come through the hook, too."""
    offers = Catalog.from_environment().offers(kind)
    rows = [(name, summary, BUILT_IN) for name, summary in _built_in(kind).items()]
    rows += [(offer.name, offer.summary, key.partition("::")[0]) for key, offer in offers.items()]
    return [{"name": name, "summary": summary, "distribution": owner} for name, summary, owner in rows]


def _built_in(kind: OfferKind) -> dict[str, str]:
    """Summaries of built-ins that need no hook, by name."""
    match kind:
        case OfferKind.LABEL_SPACE:
            return {name: f"{len(LabelSpace.named(name))} classes" for name in built_in_names()}
        case OfferKind.DATASET:
            return {name: layout.source for name, layout in sorted(LAYOUTS.items())}
        case OfferKind.RECIPE:
            return {name: _first_comment(name) for name in recipe_names()}
        case _:
            return {}


def _first_comment(recipe: str) -> str:
    first = files("clouds.recipes").joinpath(f"{recipe}.toml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
