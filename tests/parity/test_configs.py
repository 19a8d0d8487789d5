"""Golden set 14: the 18 released configurations, key by key. Ours are nine recipes of two phases each."""

from fnmatch import fnmatch
from typing import Any

import pytest
from golden import read_json

from clouds.core.contract.component import Kind
from clouds.core.contract.planner import make_plan
from clouds.training.recipe import PhaseConfig, Recipe, load_recipe

FOLDERS = {"gta": "gta", "cityscapes": "city", "synthia": "syn"}
BACKBONES = {"convnext-l": "", "r50": "_r50", "r101": "_r101"}
NAMES = [f"{source}-{backbone}" for source in FOLDERS for backbone in BACKBONES]
CLIP = {
    "clip-convnext-large-d-320": ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"),
    "clip-rn50": ("RN50", "openai"),
    "clip-rn101": ("RN101", "openai"),
}
SETS = {  # published names of data sets
    "gta5": "gta5:gta5",
    "synthia": "synthia:synthia",
    "cityscapes_train": "cityscapes:cityscapes:train",
    "cityscapes_val": "cityscapes:cityscapes:val",
    "mapillary_val": "mapillary:mapillary:val",
    "bdd_val": "bdd100k:bdd100k:val",
    **{f"acdc_{weather}_val": f"acdc-{weather}:acdc:val" for weather in ("fog", "night", "rain", "snow")},
}


NOT_OURS = {  # why: keys, as patterns
    "of other models and losses of the framework below": """
        MODEL.RPN.* MODEL.ROI_* MODEL.RETINANET.* MODEL.FPN.* MODEL.PANOPTIC_FPN.* MODEL.RESNETS.*
        MODEL.ANCHOR_GENERATOR.* MODEL.PROPOSAL_GENERATOR.* MODEL.SWIN.* MODEL.MASK_ON MODEL.KEYPOINT_ON
        MODEL.LOAD_PROPOSALS MODEL.SEM_SEG_HEAD.ASPP_* MODEL.SEM_SEG_HEAD.PROJECT_* MODEL.SEM_SEG_HEAD.LOSS_*
        MODEL.SEM_SEG_HEAD.USE_* DATASETS.*PROPOSAL* TEST.KEYPOINT_OKS_SIGMAS TEST.DETECTIONS_PER_IMAGE""",
    "without effect at these values": """
        INPUT.MIN_* INPUT.MAX_* INPUT.CROP.* INPUT.IMAGE_SIZE INPUT.RESIZE* INPUT.RANDOM_FLIP INPUT.MASK_FORMAT
        INPUT.PL_THRESHOLD INPUT.SIZE_DIVISIBILITY INPUT.DATASET_MAPPER_NAME DATALOADER.REPEAT_*
        DATALOADER.FILTER_EMPTY_ANNOTATIONS DATALOADER.ASPECT_RATIO_GROUPING TEST.AUG.* TEST.PRECISE_BN.*
        TEST.EXPECTED_RESULTS MODEL.MASK_FORMER.DROPOUT MODEL.MASK_FORMER.ENC_LAYERS MODEL.MASK_FORMER.PRE_NORM
        MODEL.BACKBONE.FREEZE_AT MODEL.FLASH MODEL.SAVE_PSEUDO_LABELS GLOBAL.HACK VERSION CUDNN_BENCHMARK
        FLOAT32_PRECISION MODEL.CLOUDS.SAM.EROSION_SIZE
        SOLVER.BASE_LR_END SOLVER.MOMENTUM SOLVER.NESTEROV SOLVER.NUM_DECAYS SOLVER.RESCALE_INTERVAL
        SOLVER.REFERENCE_WORLD_SIZE SOLVER.BIAS_LR_FACTOR""",
    "names of its parts, and how they are wired": """
        MODEL.META_ARCHITECTURE MODEL.BACKBONE.NAME MODEL.SEM_SEG_HEAD.NAME MODEL.SEM_SEG_HEAD.IN_FEATURES
        MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES
        MODEL.SEM_SEG_HEAD.COMMON_STRIDE MODEL.SEM_SEG_HEAD.NORM MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
        MODEL.CLOUDS.SAM.MINIBATCH MODEL.CLOUDS.OVERWRITING""",
    "the backbone's own": "MODEL.PIXEL_MEAN MODEL.PIXEL_STD MODEL.CLOUDS.EMBED_DIM",
    "fixed in the criterion, compared in set 7": "MODEL.MASK_FORMER.*SAMPLE_RATIO",
    "asked of a prediction, not of a recipe": """
        MODEL.MASK_FORMER.TEST.*_ON MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD
        MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD""",
    "the schedule that comes of it is compared in set 15": "SOLVER.STEPS SOLVER.GAMMA SOLVER.WARMUP_*",
    "the backbone is frozen": "SOLVER.BACKBONE_MULTIPLIER",
    "what TRAIN_REPEAT_FACTOR is made of": "DATASETS.SOURCE_FACTOR DATASETS.TARGET_FACTOR",
    "the size that scales refer to; ours refer to the image's own, which is the same one": "INPUT.INITIAL_*",
    "of a run, not of a recipe; seeds are random there": """
        OUTPUT_DIR WANDB.* VIS_PERIOD MODEL.DEVICE MODEL.WEIGHTS SEED SOLVER.CHECKPOINT_PERIOD""",
}


def _published(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configurations of the two phases."""
    source, _, backbone = name.partition("-")
    configs = read_json("14_configs_resolved")
    ending = f"{FOLDERS[source]}{BACKBONES[backbone]}.yaml"
    return (
        configs[f"configs/warmup/{source}/train_{ending}"],
        configs[f"configs/joint_training/{source}/train_jt_{ending}"],
    )


def _optimizer(recipe: Recipe, phase: PhaseConfig) -> dict[str, Any]:
    optimizer = recipe.optimizer
    return {
        "SOLVER.BASE_LR": optimizer.lr,
        "SOLVER.WEIGHT_DECAY": optimizer.weight_decay,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": optimizer.clip_norm,
        "SOLVER.LR_SCHEDULER_NAME": {"constant": "WarmupMultiStepLR", "poly": "WarmupPolyLR"}[optimizer.schedule],
        "SOLVER.MAX_ITER": phase.steps,
        "SOLVER.IMS_PER_BATCH": phase.batch_size,
        "SOLVER.CLIP_GRADIENTS.ENABLED": optimizer.clip_norm > 0,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
        "SOLVER.OPTIMIZER": optimizer.name.upper(),
        "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
        "SOLVER.WEIGHT_DECAY_BIAS": None,
        "SOLVER.POLY_LR_POWER": optimizer.power,
        "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
        "SOLVER.AMP.ENABLED": "dtype" in recipe.model,
        "TEST.EVAL_PERIOD": recipe.loop.evaluate_every,
        "DATALOADER.NUM_WORKERS": recipe.data.workers,
    }


def _head(recipe: Recipe) -> dict[str, Any]:
    plan = make_plan(backbone=recipe.model["backbone"], head=recipe.model["head"], labels=recipe.model["labels"])
    head, labels = plan.parts[Kind.HEAD], plan.labels
    options, (clip, weights) = head.options, CLIP[plan.parts[Kind.BACKBONE].name]
    assert head.name == "mask2former"
    assert plan.parts[Kind.BACKBONE].options == {"pretrained": True, "trainable": False}
    former, pixels = "MODEL.MASK_FORMER.", "MODEL.SEM_SEG_HEAD."
    return {
        "MODEL.CLOUDS.CLIP_MODEL_NAME": clip,
        "MODEL.CLOUDS.CLIP_PRETRAINED_WEIGHTS": weights,
        former + "TRANSFORMER_DECODER_NAME": "OriginalMultiScaleMaskedTransformerDecoder",  # the linear classifier
        former + "NUM_OBJECT_QUERIES": options["queries"],
        former + "HIDDEN_DIM": options["width"],
        former + "DEC_LAYERS": options["layers"] + 1,  # predictions
        former + "NHEADS": options["heads"],
        former + "DIM_FEEDFORWARD": options["feedforward"],
        former + "ENFORCE_INPUT_PROJ": options["project_inputs"],
        former + "TRAIN_NUM_POINTS": options["points"],
        former + "CLASS_WEIGHT": options["class_weight"],
        former + "MASK_WEIGHT": options["mask_weight"],
        former + "DICE_WEIGHT": options["dice_weight"],
        former + "NO_OBJECT_WEIGHT": options["no_object_weight"],
        former + "TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": options["postprocess"] == "masks_first",
        former + "DEEP_SUPERVISION": True,
        former + "SIZE_DIVISIBILITY": 32,
        pixels + "MASK_DIM": options["width"],
        pixels + "CONVS_DIM": options["width"],
        pixels + "TRANSFORMER_ENC_LAYERS": options["encoder_layers"],
        pixels + "DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": options["encoder_points"],
        pixels + "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": options["heads"],
        pixels + "NUM_CLASSES": len(labels),
        pixels + "IGNORE_VALUE": labels.ignore,
        "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE": options["geometric_ensemble"],
        "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_EMA": options["geometric_ensemble"],
        "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_ALPHA": options["ensemble_alpha"],
        "MODEL.CLOUDS.GEOMETRIC_ENSEMBLE_BETA": options["ensemble_beta"],
        "MODEL.CLOUDS.ENSEMBLE_ON_VALID_MASK": options["ensemble_on_valid_mask"],
    }


def _data(recipe: Recipe, *, joint: bool) -> dict[str, Any]:
    data, published = recipe.data, {spec: name for name, spec in SETS.items()}
    (labelled,) = (published[spec] for spec in data.source)
    assert data.generated
    assert not data.source_factors, "every labelled image once an epoch"
    factors = {"DATASETS.TRAIN_REPEAT_FACTOR": [["sd_llama70b_v2", data.generated_factor], [labelled, 1.0]]}
    return {
        "DATASETS.TRAIN": [labelled, "sd_llama70b_v2"] if joint else [labelled],
        "DATASETS.TEST": [published[spec] for spec in data.evaluation],
        "DATALOADER.SAMPLER_TRAIN": "WeightedTrainingSampler" if joint else "TrainingSampler",
        "INPUT.FLIP": data.flip,
        "INPUT.COLOR_AUG_SSD": data.distortion,
        "INPUT.FORMAT": "RGB",
        **(factors if joint else {}),
    }


def _teacher(recipe: Recipe, *, joint: bool) -> dict[str, Any]:
    refiner, sam = recipe.model["refiner"], "MODEL.CLOUDS.SAM."
    return {
        sam + "ENABLED": joint,
        sam + "MOBILE": refiner["name"] == "mobile-sam",
        sam + "SIZE_THRESHOLD": refiner["size_threshold"],
        sam + "NUM_POINTS": refiner["points"],
        sam + "SELECTION_MODE": refiner["selection"],
        sam + "RM_INTERSECTION": refiner["overlaps"] == "any",
        sam + "EROSION": "erosion" in refiner,
        sam + "REFINEMENT": "refinement" in refiner,
        sam + "ALPHA_EMA": recipe.teacher.decay,
        "MODEL.CLOUDS.ITERATION_UPDATE": recipe.teacher.every,
    }


def _ours(recipe: Recipe, *, joint: bool) -> dict[str, Any]:
    return {
        **_optimizer(recipe, recipe.joint if joint else recipe.warmup),
        **_head(recipe),
        **_data(recipe, joint=joint),
        **_teacher(recipe, joint=joint),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_the_published_one(name: str) -> None:
    recipe = load_recipe(name)
    for config, joint in zip(_published(name), (False, True), strict=True):
        ours = _ours(recipe, joint=joint)
        assert {key: config[key] for key in ours} == ours


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_in_the_released_code_itself(name: str) -> None:
    """Crops, colours and padding (golden sets 14 and 15), ignored pixels (set 7), targets of the refiner (set 11)."""
    recipe = load_recipe(name)
    data, refiner = recipe.data, recipe.model["refiner"]
    assert (data.crop, data.scale) == ((768, 768), (0.5, 2.0))
    assert (data.crop_offsets, data.label_resize, data.distort_padding) == ("diagonal", "nearest", True)
    assert (data.augmentations, recipe.teacher.confidence) == ((), 0)
    assert recipe.model["head"]["ignored"] == "negative"
    assert (refiner["small_components"], refiner["empty"]) == ("drop", "keep")


def test_every_key_is_compared_or_not_ours_for_a_reason() -> None:
    configs = read_json("14_configs_resolved")
    assert len(configs) == 2 * len(NAMES)
    keys = set().union(*configs.values())
    compared = set(_ours(load_recipe(NAMES[0]), joint=True))
    patterns = " ".join(NOT_OURS.values()).split()
    excused = {pattern: {key for key in keys if fnmatch(key, pattern)} for pattern in patterns}
    assert all(excused.values()), "a pattern without a key"
    assert set().union(*excused.values()) == keys - compared
