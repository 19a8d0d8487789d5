"""What plugins offer by name besides components: loss terms, samplers, trackers, dataset kinds and others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from importlib import import_module
from typing import Any, TypeVar, final

from attrs import frozen

from clouds.core.system.errors import ConfigError, did_you_mean

T = TypeVar("T")


class OfferKind(StrEnum):
    """Kinds of offers; the value is the name of the hook that returns them."""

    LOSS = "clouds_losses"
    SAMPLER = "clouds_samplers"
    AUGMENTATION = "clouds_augmentations"
    TRACKER = "clouds_trackers"
    LABEL_SPACE = "clouds_label_spaces"
    DATASET = "clouds_datasets"
    RECIPE = "clouds_recipes"

    @property
    def word(self) -> str:
        """The singular word for `clouds list` and messages, such as "label-space"."""
        return singular(self.value.removeprefix("clouds_").replace("_", "-"))

    @classmethod
    def of_word(cls, word: str) -> OfferKind:
        """The kind with this `word`."""
        return next(kind for kind in cls if kind.word == word)


def singular(word: str) -> str:
    """The singular of a kind's word: `head` of `heads`, `loss` of `losses`; a singular stays."""
    return word.removesuffix("es") if word.endswith("sses") else word if word.endswith("ss") else word.removesuffix("s")


@final
@frozen
class Offer:
    """An object of a plugin that users ask for by name. It is imported when it is used.

    Attributes:
        name: name in recipes, calls and commands.
        source: import path of the object, `"package.module:attribute"`.
        summary: one line for `clouds list`.
    """

    name: str
    source: str
    summary: str = ""

    def load(self) -> Any:
        """Import the object.

        Raises:
            ConfigError: the module or its attribute does not exist, or the module's import fails.
        """
        module, _, attribute = self.source.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except Exception as error:  # a plugin's module may raise anything; the cause is kept
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{self.name!r}: importing {self.source!r} failed ({reason})") from error

    def load_as(self, wanted: type[T]) -> T:
        """Import the object, which must be of a type.

        Raises:
            ConfigError: it cannot be imported, or has another type.
        """
        found = self.load()
        if not isinstance(found, wanted):
            raise ConfigError(
                f"{self.name!r}: {self.source!r} is a {type(found).__name__}; expected a {wanted.__name__}"
            )
        return found


def find_offer(
    what: str,
    name: str,
    offers: Mapping[str, Offer],
    *,
    built_in: Iterable[str] = (),
    where: str = "",
    remedy: str = "",
) -> Offer:
    """Look up `name` or `dist::name` among offers by `dist::name`.

    Args:
        what: word for the offers in messages, such as "tracker".
        name: the name that the user gave.
        offers: as `Catalog.offers` returns them.
        built_in: names that need no plugin, for the hint at the nearest name.
        where: recipe key or argument that gave the name; starts the message.
        remedy: ends the message about an unknown name.

    Raises:
        ConfigError: no plugin offers the name, or several do; the message names the nearest name or the choices.
    """
    start = f"{where}: " if where else ""
    matches = [key for key in offers if name in (key, offers[key].name)]
    if not matches:
        known = sorted({*built_in, *(offer.name for offer in offers.values())})
        raise ConfigError(f"{start}unknown {what} {name!r}{did_you_mean(name, known)}{remedy}")
    if len(matches) > 1:
        raise ConfigError(f"{start}two plugins offer {name!r}; choose one: {' or '.join(matches)}")
    return offers[matches[0]]
