"""CLOUDS: collaborating foundation models for domain-generalized semantic segmentation.

Names are imported on first use, so that `import clouds` never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clouds.core.catalog import BrokenPlugin, Catalog
    from clouds.core.component import Component, FeatureSpec, Kind
    from clouds.core.composer import compose, load
    from clouds.core.errors import (
        CloudsError,
        ComponentError,
        ConfigError,
        DataError,
        DuplicateComponentError,
        NonFiniteError,
        PlanError,
        PluginError,
        SlowDtypeWarning,
        TrustError,
        UnknownComponentError,
        UntrainedHeadWarning,
        WeightsError,
        WorkerError,
    )
    from clouds.core.hookspecs import hookimpl
    from clouds.core.interfaces import (
        Backbone,
        Features,
        GeneratedImage,
        GenerationRequest,
        Generator,
        Head,
        HeadOutput,
        MaskPooler,
        Prepared,
        Prompter,
        Refiner,
        Targets,
        TextClassifier,
        TextEncoder,
    )
    from clouds.core.labels import LabelSpace
    from clouds.core.pipeline import Pipeline
    from clouds.core.plan import Part, Plan, Problem
    from clouds.core.plan import make_plan as plan
    from clouds.core.prediction import Prediction
    from clouds.core.reach import hub_access
    from clouds.core.reference import from_reference_checkpoint
    from clouds.core.tensor_cache import TensorCache
    from clouds.core.weight_files import read_weights
    from clouds.core.weight_records import FileWeights, HubWeights, PageWeights, Pinned
    from clouds.core.weight_store import hub_folder, weights_file
    from clouds.core.weights import load_weights
    from clouds.evaluation.evaluate import evaluate
    from clouds.evaluation.report import Report
    from clouds.refiners.prompt_options import PromptOptions, prompt_preset
    from clouds.refiners.prompted import PromptedSegmenter, PromptRefiner
    from clouds.refiners.sam import SamSegmenter
    from clouds.synthesis.generate import generate
    from clouds.training.train import train

__version__ = "0.1.0"

_HOMES = {
    "clouds.core.catalog": ("BrokenPlugin", "Catalog"),
    "clouds.core.component": ("Component", "FeatureSpec", "Kind"),
    "clouds.core.composer": ("compose", "load"),
    "clouds.core.errors": (
        "CloudsError",
        "ComponentError",
        "ConfigError",
        "DataError",
        "DuplicateComponentError",
        "NonFiniteError",
        "PlanError",
        "PluginError",
        "SlowDtypeWarning",
        "TrustError",
        "UnknownComponentError",
        "UntrainedHeadWarning",
        "WeightsError",
        "WorkerError",
    ),
    "clouds.core.hookspecs": ("hookimpl",),
    "clouds.core.interfaces": (
        "Backbone",
        "Features",
        "GeneratedImage",
        "GenerationRequest",
        "Generator",
        "Head",
        "HeadOutput",
        "MaskPooler",
        "Prepared",
        "Prompter",
        "Refiner",
        "Targets",
        "TextClassifier",
        "TextEncoder",
    ),
    "clouds.core.labels": ("LabelSpace",),
    "clouds.core.pipeline": ("Pipeline",),
    "clouds.core.plan": ("Part", "Plan", "Problem"),
    "clouds.core.prediction": ("Prediction",),
    "clouds.core.reach": ("hub_access",),
    "clouds.core.reference": ("from_reference_checkpoint",),
    "clouds.core.tensor_cache": ("TensorCache",),
    "clouds.core.weight_files": ("read_weights",),
    "clouds.core.weight_records": ("FileWeights", "HubWeights", "PageWeights", "Pinned"),
    "clouds.core.weight_store": ("hub_folder", "weights_file"),
    "clouds.core.weights": ("load_weights",),
    "clouds.evaluation.evaluate": ("evaluate",),
    "clouds.evaluation.report": ("Report",),
    "clouds.refiners.prompt_options": ("PromptOptions", "prompt_preset"),
    "clouds.refiners.prompted": ("PromptRefiner", "PromptedSegmenter"),
    "clouds.refiners.sam": ("SamSegmenter",),
    "clouds.synthesis.generate": ("generate",),
    "clouds.training.train": ("train",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", "catalog", "plan", *_HOME_OF]  # pyright: ignore[reportUnsupportedDunderAll]


def catalog() -> Catalog:
    """Built-ins and every installed plugin. See `Catalog.from_environment`."""
    from clouds.core.catalog import Catalog

    return Catalog.from_environment()


def __getattr__(name: str) -> Any:
    if name == "plan":
        return import_module("clouds.core.plan").make_plan
    if name not in _HOME_OF:
        raise AttributeError(f"module 'clouds' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
