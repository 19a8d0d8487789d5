"""The options that prompted refiners share: listed once, read without torch, and given to presets by a decorator."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Component, Kind
from clouds.core.contract.schema import read_schema
from clouds.refiners.prompt_options import PresetOptions
from clouds.refiners.prompt_preset import prompt_preset
from clouds.refiners.prompted import PromptRefiner
from clouds.refiners.sam import SamSegmenter
from clouds.testing.tiny_sam import tiny_sam

SHARED: dict[str, tuple[Any, Any]] = {
    "size_threshold": (5000, int),
    "points": (5, int),
    "selection": ("random", Literal["random", "center", "largest_component"]),
    "erosion": (0, int),
    "refinement": (False, bool),
    "small_components": ("keep", Literal["keep", "drop"]),
    "overlaps": ("between_classes", Literal["between_classes", "any", "keep"]),
    "empty": ("drop", Literal["drop", "keep"]),
    "batch_size": (8, int),
    "dtype": (None, Literal["bfloat16", "float16"] | None),
    "cache": (None, Path | None),
    "cache_bytes": (34_359_738_368, int),
}
OPTIONS: dict[str, dict[str, tuple[Any, Any]]] = {
    "sam-vit-b": {"pretrained": (True, bool | Path), **SHARED},
    "sam-vit-l": {"pretrained": (True, bool | Path), **SHARED},
    "sam-vit-h": {"pretrained": (True, bool | Path), **SHARED},
    "regions": {"cell": (8, int), "compactness": (0.1, float), "rounds": (5, int), "agreement": (0.6, float)},
    "guided": {"radius": (16, int), "epsilon": (0.01, float), "balance": (0.3, float), "subsample": (2, int)},
    "identity": {},
}


@prompt_preset
def small(*, side: int = 64) -> SamSegmenter:
    """A small SAM.

    Args:
        side: in pixels.
    """
    return SamSegmenter(tiny_sam(image_size=side))


@prompt_preset
def plain() -> SamSegmenter:
    """A small SAM."""
    return SamSegmenter(tiny_sam(image_size=64))


@pytest.mark.parametrize("name", OPTIONS)
def test_names_defaults_and_types(name: str) -> None:
    schema = read_schema(Catalog.from_environment().find(Kind.REFINER, name))
    found = {option: (parameter.default, schema.types[option]) for option, parameter in schema.options.items()}
    assert found == OPTIONS[name]
    assert list(found) == list(OPTIONS[name])
    documentation = inspect.getdoc(schema.factory) or ""
    assert [option for option in found if f"\n    {option}: " not in documentation] == []


def test_reading_them_imports_no_torch() -> None:
    program = (
        "import sys, clouds; from clouds.core.contract.schema import read_schema\n"
        "for entry in clouds.catalog().entries('refiner'): read_schema(entry.component)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_preset_has_its_own_options_and_the_shared_ones() -> None:
    component = Component(name="small", kind="refiner", factory=f"{__name__}:small", summary="a test")
    schema = read_schema(component)
    assert list(schema.options) == ["side", *SHARED]
    assert schema.types["side"] is int
    assert schema.types["cache"] == Path | None
    assert schema.faults({"points": "many"}) != []
    assert [parameter.annotation for parameter in schema.options.values()][:2] == [int, "int"]
    assert small.__name__ == "small"


def test_help_continues_the_section_args_or_opens_it() -> None:
    begin = "A small SAM.\n\nArgs:\n    side: in pixels.\n    size_threshold: components with more pixels"
    assert (inspect.getdoc(small) or "").startswith(begin)
    assert (inspect.getdoc(plain) or "").startswith("A small SAM.\n\nArgs:\n    size_threshold: components with more")


def test_a_preset_builds_the_refiner_with_what_was_asked(tmp_path: Path) -> None:
    refiner = small(side=96, points=7, cache=tmp_path, cache_bytes=100)
    assert isinstance(refiner, PromptRefiner)
    assert refiner.segmenter.sam.image_encoder.img_size == 96
    assert refiner.options.points == 7
    assert refiner.cache is not None
    assert (refiner.cache.folder, refiner.cache.max_bytes) == (tmp_path, 100)
    assert plain().cache is None


@pytest.mark.parametrize("build", [small, lambda **options: PromptRefiner(plain().segmenter, **options)])
def test_an_option_that_is_not_there_is_named(build: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'pionts'"):
        build(pionts=3)


def test_the_record_lists_all() -> None:
    assert list(inspect.signature(PresetOptions).parameters) == list(SHARED)
