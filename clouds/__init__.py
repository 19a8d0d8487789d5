"""CLOUDS: collaborating foundation models for domain-generalized semantic segmentation.

Names are imported on first use, so that `import clouds` never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clouds.backbones.ready import as_backbone
    from clouds.core.contract.adaptation import Adapter, Block, Blocks, Projection
    from clouds.core.contract.catalog import BrokenPlugin, Catalog
    from clouds.core.contract.component import Component, FeatureSpec, Kind
    from clouds.core.contract.hookspecs import hookimpl
    from clouds.core.contract.interfaces import (
        Backbone,
        Generator,
        Head,
        MaskPooler,
        Prompter,
        Refiner,
        TextClassifier,
        TextEncoder,
    )
    from clouds.core.contract.labels import LabelSpace
    from clouds.core.contract.losses import LossInputs, LossTerm
    from clouds.core.contract.offers import Offer
    from clouds.core.contract.plan import Part, Plan, PlanError, Problem
    from clouds.core.contract.planner import make_plan as plan
    from clouds.core.contract.records import (
        Features,
        GeneratedImage,
        GenerationRequest,
        HeadOutput,
        LabelledImage,
        Prepared,
        Prompt,
        Targets,
    )
    from clouds.core.contract.sampling import Sampler, Wanted
    from clouds.core.contract.weight_records import FileWeights, HubWeights, PageWeights, Pinned
    from clouds.core.pipeline.composer import compose, load
    from clouds.core.pipeline.export import export
    from clouds.core.pipeline.pipeline import Pipeline
    from clouds.core.pipeline.prediction import Prediction
    from clouds.core.published.checkpoint import from_reference_checkpoint
    from clouds.core.system.errors import (
        CloudsError,
        ComponentError,
        ConfigError,
        DataError,
        DuplicateComponentError,
        NonFiniteError,
        PluginError,
        SlowDtypeWarning,
        TrustError,
        UnknownComponentError,
        UntrainedHeadWarning,
        WeightsError,
        WorkerError,
    )
    from clouds.core.system.reach import hub_access
    from clouds.core.weights.files import read_weights
    from clouds.core.weights.loading import load_weights
    from clouds.core.weights.store import hub_folder, weights_file
    from clouds.core.weights.tensor_cache import TensorCache
    from clouds.data.layouts import FilePattern, Layout
    from clouds.evaluation.comparison import Comparison
    from clouds.evaluation.evaluate import evaluate
    from clouds.evaluation.evaluate_segments import evaluate_segments
    from clouds.evaluation.pipeline_comparison import PipelineComparison, compare_pipelines
    from clouds.evaluation.report import Report
    from clouds.evaluation.score import LabelFreeScores, score
    from clouds.evaluation.segment_report import SegmentReport
    from clouds.refiners.prompt_options import PromptOptions
    from clouds.refiners.prompt_preset import prompt_preset
    from clouds.refiners.prompted import PromptedSegmenter, PromptRefiner
    from clouds.refiners.sam import SamSegmenter
    from clouds.synthesis.generate import generate
    from clouds.training.ablation import ablate
    from clouds.training.ablation_result import Ablation
    from clouds.training.recipe import Recipe, load_recipe
    from clouds.training.run_folder import compare
    from clouds.training.train import train

__version__ = "0.1.0"

_HOMES = {
    "clouds.backbones.ready": ("as_backbone",),
    "clouds.core.contract.adaptation": ("Adapter", "Block", "Blocks", "Projection"),
    "clouds.core.contract.catalog": ("BrokenPlugin", "Catalog"),
    "clouds.core.contract.component": ("Component", "FeatureSpec", "Kind"),
    "clouds.core.pipeline.composer": ("compose", "load"),
    "clouds.core.pipeline.export": ("export",),
    "clouds.core.system.errors": (
        "CloudsError",
        "ComponentError",
        "ConfigError",
        "DataError",
        "DuplicateComponentError",
        "NonFiniteError",
        "PluginError",
        "SlowDtypeWarning",
        "TrustError",
        "UnknownComponentError",
        "UntrainedHeadWarning",
        "WeightsError",
        "WorkerError",
    ),
    "clouds.core.contract.hookspecs": ("hookimpl",),
    "clouds.core.contract.interfaces": (
        "Backbone",
        "Generator",
        "Head",
        "MaskPooler",
        "Prompter",
        "Refiner",
        "TextClassifier",
        "TextEncoder",
    ),
    "clouds.core.contract.records": (
        "Features",
        "GeneratedImage",
        "GenerationRequest",
        "HeadOutput",
        "LabelledImage",
        "Prepared",
        "Prompt",
        "Targets",
    ),
    "clouds.core.contract.labels": ("LabelSpace",),
    "clouds.core.contract.losses": ("LossInputs", "LossTerm"),
    "clouds.core.contract.offers": ("Offer",),
    "clouds.core.contract.sampling": ("Sampler", "Wanted"),
    "clouds.data.layouts": ("FilePattern", "Layout"),
    "clouds.core.pipeline.pipeline": ("Pipeline",),
    "clouds.core.contract.plan": ("Part", "Plan", "PlanError", "Problem"),
    "clouds.core.pipeline.prediction": ("Prediction",),
    "clouds.core.system.reach": ("hub_access",),
    "clouds.core.published.checkpoint": ("from_reference_checkpoint",),
    "clouds.core.weights.tensor_cache": ("TensorCache",),
    "clouds.core.weights.files": ("read_weights",),
    "clouds.core.contract.weight_records": ("FileWeights", "HubWeights", "PageWeights", "Pinned"),
    "clouds.core.weights.store": ("hub_folder", "weights_file"),
    "clouds.core.weights.loading": ("load_weights",),
    "clouds.evaluation.comparison": ("Comparison",),
    "clouds.evaluation.evaluate": ("evaluate",),
    "clouds.evaluation.evaluate_segments": ("evaluate_segments",),
    "clouds.evaluation.pipeline_comparison": ("PipelineComparison", "compare_pipelines"),
    "clouds.evaluation.report": ("Report",),
    "clouds.evaluation.score": ("LabelFreeScores", "score"),
    "clouds.evaluation.segment_report": ("SegmentReport",),
    "clouds.refiners.prompt_options": ("PromptOptions",),
    "clouds.refiners.prompt_preset": ("prompt_preset",),
    "clouds.refiners.prompted": ("PromptRefiner", "PromptedSegmenter"),
    "clouds.refiners.sam": ("SamSegmenter",),
    "clouds.synthesis.generate": ("generate",),
    "clouds.training.ablation": ("ablate",),
    "clouds.training.ablation_result": ("Ablation",),
    "clouds.training.recipe": ("Recipe", "load_recipe"),
    "clouds.training.run_folder": ("compare",),
    "clouds.training.train": ("train",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", "catalog", "plan", *_HOME_OF]  # pyright: ignore[reportUnsupportedDunderAll]


def catalog() -> Catalog:
    """Built-ins and every installed plugin. See `Catalog.from_environment`."""
    from clouds.core.contract.catalog import Catalog

    return Catalog.from_environment()


def __getattr__(name: str) -> Any:
    if name == "plan":
        return import_module("clouds.core.contract.planner").make_plan
    if name not in _HOME_OF:
        raise AttributeError(f"module 'clouds' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
