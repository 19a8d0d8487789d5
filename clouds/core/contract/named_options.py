"""Offers that are asked for by name, with options: `"name"`, or a table of `name` and options."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.offers import Offer, OfferKind, find_offer
from clouds.core.contract.schema import option_faults, read_types, signature_text
from clouds.core.system.errors import ConfigError
from clouds.core.system.values import from_json_value

T = TypeVar("T")
NamedOptions = str | dict[str, Any]


def asked_name(asked: NamedOptions, *, where: str) -> str:
    """The name in `asked`. Raises `ConfigError` if a table has none."""
    name = asked if isinstance(asked, str) else asked.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where}: {asked!r} has no name; write a name, or a table of `name` and options")
    return name


def asked_offer(kind: OfferKind, asked: NamedOptions, *, where: str) -> Offer:
    """The offer of the name in `asked`. Raises `ConfigError` if there is none."""
    offers = Catalog.from_environment().offers(kind)
    return find_offer(kind.word, asked_name(asked, where=where), offers, where=where)


def build_offer(kind: OfferKind, asked: NamedOptions, *given: object, wanted: type[T], where: str) -> T:
    """Call the factory of an offer with `given` and the user's options, which are its other parameters.

    Args:
        kind: kind of the offer.
        asked: the name that the user gave, or a table of `name` and options.
        given: the factory's first arguments.
        wanted: type of the result.
        where: recipe key of `asked`; starts messages.

    Raises:
        ConfigError: the name is unknown, an option is unknown or has a wrong type or value, or the result has another
            type.
    """
    name = asked_name(asked, where=where)
    options = {} if isinstance(asked, str) else {key: value for key, value in asked.items() if key != "name"}
    factory = asked_offer(kind, asked, where=where).load()
    parameters = list(inspect.signature(factory).parameters.values())
    types = read_types(factory, f"{kind.word} {name!r}", unread=[one.name for one in parameters[: len(given)]])
    accepted = {one.name: one for one in parameters[len(given) :]}
    faults = option_faults(options, accepted, types, signature_text(name, accepted, types))
    if faults:
        raise ConfigError(f"{where}: {name}: {'; '.join(faults)}")
    values = {key: from_json_value(types.get(key, Any), value) for key, value in options.items()}
    try:
        made = factory(*given, **values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {name}: {error}") from error
    if not isinstance(made, wanted):
        raise ConfigError(f"{where}: {name!r} made a {type(made).__name__}; expected a {wanted.__name__}")
    return made
