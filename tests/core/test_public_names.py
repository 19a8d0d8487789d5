"""The public names of `clouds`. Adding one is a decision; removing one breaks its users."""

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
