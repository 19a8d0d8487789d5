"""The public names of `clouds`. Adding one is a decision; removing one breaks its users."""

import ast
from pathlib import Path

import clouds

NAMES = [
    *("Ablation", "Adapter", "Backbone", "Block", "Blocks", "BrokenPlugin", "Catalog", "CloudsError", "Comparison"),
    *("Component", "ComponentError", "ConfigError", "DataError"),
    *("DuplicateComponentError", "FeatureSpec", "Features", "FilePattern", "FileWeights", "GeneratedImage"),
    "GenerationRequest",
    *(
        "Generator",
        "Head",
        "HeadOutput",
        "HubWeights",
        "Kind",
        "LabelFreeScores",
        "LabelSpace",
        "LabelledImage",
        "Layout",
        "LossInputs",
    ),
    *("LossTerm", "MaskPooler", "NonFiniteError"),
    "Offer",
    *(
        "PageWeights",
        "Part",
        "Pinned",
        "Pipeline",
        "PipelineComparison",
        "Plan",
        "PlanError",
        "PluginError",
        "Prediction",
        "Prepared",
    ),
    *(
        "Problem",
        "Projection",
        "Prompt",
        "PromptOptions",
        "PromptRefiner",
        "PromptedSegmenter",
        "Prompter",
        "Recipe",
        "Refiner",
        "Report",
    ),
    *(
        "SamSegmenter",
        "Sampler",
        "SegmentReport",
        "SlowDtypeWarning",
        "Targets",
        "TensorCache",
        "TextClassifier",
        "TextEncoder",
        "TrustError",
    ),
    *("UnknownComponentError", "UntrainedHeadWarning", "Wanted", "WeightsError", "WorkerError", "__version__"),
    *(
        "ablate",
        "as_backbone",
        "catalog",
        "compare",
        "compare_pipelines",
        "compose",
        "evaluate",
        "evaluate_segments",
        "export",
        "from_reference_checkpoint",
        "generate",
        "hookimpl",
        "hub_access",
    ),
    *("hub_folder", "load", "load_recipe"),
    *("load_weights", "plan", "prompt_preset", "read_weights", "score", "train", "weights_file"),
]


def test_the_public_names_are_these() -> None:
    assert sorted(clouds.__all__) == NAMES
    assert sorted(dir(clouds)) == NAMES


def test_type_checkers_and_the_documentation_find_every_name_where_it_is() -> None:
    """They read the imports, which do not run; attributes come from the table of homes."""
    tree = ast.parse(Path(clouds.__file__).read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {node.module: {one.name for one in node.names} for node in guarded.body if isinstance(node, ast.ImportFrom)}
    homes = {module: {*names} for module, names in clouds._HOMES.items()}
    assert found == homes | {"clouds.core.contract.planner": {"make_plan"}}  # the name `plan`
