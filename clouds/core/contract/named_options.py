"""Offers that are asked for by name, with options: `"name"`, or a table of `name` and options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from clouds.core.contract.offers import Offer, find_offer
from clouds.core.contract.schema import option_faults, read_types, signature_text
from clouds.core.system.errors import ConfigError
from clouds.core.system.values import from_json_value

NamedOptions = str | dict[str, Any]


def asked_name(asked: NamedOptions, *, where: str) -> str:
    """The name in `asked`. Raises `ConfigError` if a table has none."""
    name = asked if isinstance(asked, str) else asked.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where}: {asked!r} has no name; write a name, or a table of `name` and options")
    return name


def build_offer(what: str, asked: NamedOptions, offers: Mapping[str, Offer], *given: object, where: str) -> Any:
    """Call the factory of an offer with `given` and the user's options, which are its other parameters.

    Args:
        what: word for the offers in messages, such as "loss term".
        asked: the name that the user gave, or a table of `name` and options.
        offers: as `Catalog.offers` returns them.
        given: the factory's first arguments.
        where: recipe key of `asked`; starts messages.

    Raises:
        ConfigError: the name is unknown, or an option is unknown or has a wrong type or value.
    """
    name = asked_name(asked, where=where)
    options = {} if isinstance(asked, str) else {key: value for key, value in asked.items() if key != "name"}
    factory = find_offer(what, name, offers, where=where).load()
    parameters = list(inspect.signature(factory).parameters.values())
    types = read_types(factory, f"{what} {name!r}", unread=[one.name for one in parameters[: len(given)]])
    accepted = {one.name: one for one in parameters[len(given) :]}
    faults = option_faults(options, accepted, types, signature_text(name, accepted, types))
    if faults:
        raise ConfigError(f"{where}: {name}: {'; '.join(faults)}")
    values = {key: from_json_value(types.get(key, Any), value) for key, value in options.items()}
    try:
        return factory(*given, **values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {name}: {error}") from error
