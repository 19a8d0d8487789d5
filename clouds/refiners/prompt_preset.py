"""The decorator that adds the options of prompted refiners to a preset. Importing it does not import torch."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from attrs import asdict, fields

from clouds.refiners.prompt_options import PresetOptions, PromptOptions

if TYPE_CHECKING:
    from clouds.refiners.prompted import PromptRefiner


def prompt_preset(build: Callable[..., Any]) -> Callable[..., PromptRefiner]:
    """Turn a function that builds a `PromptedSegmenter` into a preset that builds a `PromptRefiner` with it.

    The preset has the signature, annotations and docstring of `build`, followed by the options of `PresetOptions`. A
    section `Args:` must come last in the docstring of `build`.

    Args:
        build: takes keyword options with annotations that its module can evaluate, and imports torch inside.

    >>> @prompt_preset
    ... def my_refiner(*, pretrained: bool = True):
    ...     '''My network answers point prompts.
    ...
    ...     Args:
    ...         pretrained: load the published weights.
    ...     '''
    >>> list(inspect.signature(my_refiner).parameters)[:3]
    ['pretrained', 'size_threshold', 'points']
    """
    own = inspect.signature(build).parameters

    @functools.wraps(build)
    def preset(**options: Any) -> PromptRefiner:
        from clouds.core.weights.tensor_cache import TensorCache
        from clouds.refiners.prompted import PromptRefiner

        given = {name: options.pop(name) for name in own if name in options}
        shared = asdict(PresetOptions(**options))
        folder, max_bytes = shared.pop("cache"), shared.pop("cache_bytes")
        cache = None if folder is None else TensorCache(folder, max_bytes=max_bytes)
        return PromptRefiner(build(**given), cache=cache, **shared)

    added = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in fields(PresetOptions)
    ]
    preset.__signature__ = inspect.Signature([*own.values(), *added])  # pyright: ignore[reportAttributeAccessIssue]
    preset.__annotations__ = {**build.__annotations__, **get_type_hints(PresetOptions)}
    text = inspect.getdoc(build) or ""
    text = text if "\nArgs:\n" in text else f"{text}\n\nArgs:"
    preset.__doc__ = "\n".join([text, *map(_option_lines, (PromptOptions, PresetOptions))])
    return preset


def _option_lines(record: type) -> str:
    """Lines of a record's docstring section `Attributes:`; "" if Python drops docstrings (-OO)."""
    found = re.search(r"^Attributes:\n((?: .*\n?)+)", inspect.getdoc(record) or "", re.MULTILINE)
    return found[1].rstrip("\n") if found else ""
