"""Every built-in keeps the contract that plugin authors check their own components against."""

from pathlib import Path

from clouds.backbones.published import CLIP_MODELS, TIMM_MODELS
from clouds.testing import component_tests

PROMPTS = Path(__file__).with_name("prompts.txt")
PICTURES = Path(__file__).with_name("pictures")

# Large models: their classes are checked with shrunk sizes, and each name at full size on the meta device, in
# tests/backbones and tests/refiners; the prompter with a model that has words, in tests/prompters.
LARGE = {f"backbone:{name}" for name in (*CLIP_MODELS, *TIMM_MODELS)} | {f"refiner:sam-vit-{size}" for size in "blh"}
LARGE |= {"prompter:llm"}

OPTIONS = {"prompter:file": {"path": str(PROMPTS)}, "generator:photographs": {"pictures": str(PICTURES)}}

test_contract = component_tests("clouds-dgss", options=OPTIONS, without=LARGE)
