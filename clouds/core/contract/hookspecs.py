"""The hooks of `clouds`. Their docstrings are the contract.

A plugin is a module with functions named like the hooks below and decorated with `@clouds.hookimpl`; its distribution
declares the module under `[project.entry-points.clouds]`. Hooks RETURN components, which hold names and import paths.
They must not import torch, build anything or read files.

>>> import clouds
>>> class MyPlugin:
...     @clouds.hookimpl
...     def clouds_backbones(self):
...         return [clouds.Component(
...             name="my-backbone", kind="backbone", factory="my_package.presets:my_backbone",
...             summary="what it is", provides=["res2", "res3", "res4", "res5"])]
>>> clouds.Catalog(plugins={"my-plugin": MyPlugin()}).names("backbone")
['my-backbone']
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from clouds.core.contract.component import Component, Kind
    from clouds.core.contract.offers import Offer
    from clouds.core.contract.plan import Plan, Problem
    from clouds.core.contract.weight_records import Weights

PROJECT = "clouds"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def clouds_backbones() -> Iterable[Component]:  # pyright: ignore[reportReturnType]
    """Return the backbones of this plugin.

    Their factories take keyword options only and return a `clouds.Backbone`. A parameter `pretrained` gets its value
    from `compose(pretrained=...)` unless the user sets it.

    >>> def my_backbone(*, pretrained: bool = True, width: int = 64): ...
    """


@hookspec
def clouds_adapters() -> Iterable[Component]:  # pyright: ignore[reportReturnType]
    """Return the adapters of this plugin: what is trained on a frozen backbone.

    Their factories return a `clouds.Adapter`. The composer passes `blocks` (the `clouds.Block` records of the
    backbone) and, if the factory has the parameter, `queries` (number and width of the head's queries, or None). An
    adapter declares `needs="blocks"`.

    >>> def my_adapter(blocks, *, rank: int = 16): ...
    """


@hookspec
def clouds_generators() -> Iterable[Component]:  # pyright: ignore[reportReturnType]
    """Return the generators of this plugin: their factories return a `clouds.Generator`.

    >>> def my_generator(*, steps: int = 50): ...
    """


@hookspec
def clouds_refiners() -> Iterable[Component]:  # pyright: ignore[reportReturnType]
    """Return the refiners of this plugin: their factories return a `clouds.Refiner`.

    >>> def my_refiner(*, min_area: int = 64): ...
    """


@hookspec
def clouds_heads() -> Iterable[Component]:  # pyright: ignore[reportReturnType]
    """Return the heads of this plugin.

    Their factories return a `clouds.Head`. The composer passes `features` (a mapping from level name to
    `clouds.FeatureSpec`) and `labels` (the `clouds.LabelSpace` to predict); all other parameters are options.

    >>> def my_head(features, labels, *, hidden: int = 128): ...
    """


@hookspec
def clouds_prompters() -> Iterable[Component]:  # pyright: ignore[reportReturnType]
    """Return the prompters of this plugin: their factories return a `clouds.Prompter`.

    If the factory has a parameter `labels`, the composer passes the `clouds.LabelSpace` of the pipeline.

    >>> def my_prompter(labels, *, language: str = "en"): ...
    """


@hookspec
def clouds_resolve(kind: Kind, name: str) -> Component | None:
    """Return a component for a patterned name (`"timm:convnext_atto"`), or None if the plugin does not own the pattern.

    Called only for names that no listed component has. Components from two plugins are a duplicate. The component's
    `name` must equal the given name; `options` binds the values parsed from it.

    >>> def clouds_resolve(kind, name):
    ...     family, _, model = name.partition(":")
    ...     if kind != "backbone" or family != "mine":
    ...         return None
    ...     return clouds.Component(
    ...         name=name, kind="backbone", factory="my_package.presets:by_model",
    ...         summary=f"my model {model}", options={"model": model})
    """


@hookspec
def clouds_install_command(kind: Kind, name: str) -> str | None:
    """Return the pip command of a package that brings the component, or None when the name is not yours.

    It is called only for names that no installed plugin has, and is the remedy of the error about them.

    >>> def clouds_install_command(kind, name):
    ...     return "pip install my-package[extra]" if (kind, name) == ("refiner", "my-refiner") else None
    """


@hookspec
def clouds_losses() -> Iterable[Offer]:  # pyright: ignore[reportReturnType]
    """Return the loss terms of this plugin, for `loss.terms=["my-term"]` in recipes.

    The import path of each leads to a factory: its first argument is the `clouds.Pipeline` to train, all others are
    options. It returns a `clouds.LossTerm`, which adds to the head's loss.

    >>> def clouds_losses():
    ...     return [clouds.Offer("my-term", "my_package.losses:MyTerm", "keeps predictions sharp")]
    """


@hookspec
def clouds_samplers() -> Iterable[Offer]:  # pyright: ignore[reportReturnType]
    """Return the samplers of this plugin, for `data.sampler="my-sampler"` in recipes.

    The import path of each leads to a factory: its first argument is the list of labelled datasets, all others are
    options. It returns a `clouds.Sampler`, which chooses the image of each sample. An option `index` holds one file per
    source, whose paths are relative to `data.root`.

    >>> def clouds_samplers():
    ...     return [clouds.Offer("my-sampler", "my_package.sampling:MySampler", "hard images more often")]
    """


@hookspec
def clouds_augmentations() -> Iterable[Offer]:  # pyright: ignore[reportReturnType]
    """Return the augmentations of this plugin, for `data.augmentations=["my-noise"]` in recipes.

    The import path of each leads to a factory, whose arguments are options. It returns a function of an image (uint8
    "h w 3", RGB) and a `numpy.random.Generator`, which returns the changed image. It changes the student's views of
    source and generated images, after crop and distortion. Labels stay, so the geometry has to stay. Reading processes
    may pickle the function: `functools.partial` can be pickled, a lambda cannot.

    >>> def clouds_augmentations():
    ...     return [clouds.Offer("my-noise", "my_package.views:my_noise", "noise of a camera")]
    """


@hookspec
def clouds_trackers() -> Iterable[Offer | tuple[str, str]]:  # pyright: ignore[reportReturnType]
    """Return the trackers of this plugin: pairs of a name for `loop.trackers` and the import path of a factory.

    The run's first process calls the factory with the run's folder (a `Path`) and its recipe (plain values). The
    returned object has methods `log(phase, step, numbers)` and `close()`.

    >>> def clouds_trackers():
    ...     return [("my-tracker", "my_package.tracking:MyTracker")]
    """


@hookspec
def clouds_label_spaces() -> Iterable[Offer]:  # pyright: ignore[reportReturnType]
    """Return the label spaces of this plugin, for `labels="my-classes"` in calls, recipes and commands.

    The import path of each leads to a `clouds.LabelSpace`.

    >>> def clouds_label_spaces():
    ...     return [clouds.Offer("my-classes", "my_package.labels:MY_CLASSES", "12 classes of a harbour")]
    """


@hookspec
def clouds_datasets() -> Iterable[Offer]:  # pyright: ignore[reportReturnType]
    """Return the kinds of datasets of this plugin, for the SPEC `my-kind:PATH[:SPLIT]`.

    The import path of each leads to a `clouds.Layout`.

    >>> def clouds_datasets():
    ...     return [clouds.Offer("my-kind", "my_package.data:LAYOUT", "as downloaded from example.org")]
    """


@hookspec
def clouds_recipes() -> Iterable[Offer]:  # pyright: ignore[reportReturnType]
    """Return the recipes of this plugin, for `clouds train my-recipe`.

    The import path of each leads to the `pathlib.Path` of a TOML file, which may extend any other recipe.

    >>> def clouds_recipes():
    ...     return [clouds.Offer("my-recipe", "my_package.recipes:MY_RECIPE", "one GPU, one night")]
    """


@hookspec
def clouds_weights() -> Iterable[Weights]:  # pyright: ignore[reportReturnType]
    """Return the published weights of this plugin, for `clouds weights` and `clouds.weights_file`.

    Each is a `clouds.FileWeights`, `clouds.HubWeights` or `clouds.PageWeights`. Weights of a component with one model
    have the component's name.

    >>> def clouds_weights():
    ...     return [clouds.FileWeights(
    ...         name="my-refiner", licence="MIT", url="https://example.org/my_refiner.pth",
    ...         sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", size=4)]
    """


@hookspec
def clouds_check_plan(plan: Plan) -> Iterable[Problem]:  # pyright: ignore[reportReturnType]
    """Return the problems that this plugin finds in a plan, before anything is built.

    Check only the plugin's own parts and how other parts fit them. Do not import torch.

    >>> def clouds_check_plan(plan):
    ...     part = plan.parts.get("head")
    ...     if part is not None and part.name == "my-head" and len(plan.labels) > 32:
    ...         yield clouds.Problem(part="head", message="my-head serves at most 32 classes")
    """
