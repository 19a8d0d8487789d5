"""Which heavy modules each command may load; one that loads another fails with its name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import write_evaluated_run

HEAVY = {
    *("torch", "torchvision", "torch._dynamo", "torch._inductor", "triton", "sympy", "xformers", "kornia", "scipy"),
    *("timm", "open_clip", "transformers", "diffusers", "accelerate", "segment_anything", "huggingface_hub", "ftfy"),
    *("plotly", "pandas", "matplotlib", "ray", "webdataset", "datasets", "sklearn", "onnx", "av", "gradio"),
}
NOTHING: set[str] = set()
TORCH = {"torch"}
# Generated pictures are lit and filtered with scipy; `doctor` says whether its libraries can be imported.
SCIPY, LIBRARIES = {"torch", "scipy"}, {"torch", "torchvision", "torch._dynamo", "torch._inductor", "triton", "sympy"}
LIBRARIES |= {"xformers", "gradio", "pandas", "huggingface_hub"}
ALLOWED = {
    "--help": NOTHING,
    "--version": NOTHING,
    "list backbones": NOTHING,
    "list --json": NOTHING,
    "info tiny": NOTHING,
    "plan demo": NOTHING,
    "bench --help": NOTHING,
    "ablate --help": NOTHING,
    "compare {run}": NOTHING,
    "compare {run} --report {out}": {"plotly"},
    "weights list": {"huggingface_hub"},
    "datasets check {data}": NOTHING,
    "prompts --prompter grammar --n 1 --out {out}": TORCH,
    "predict {model} {image} --out {out}": TORCH,
    "evaluate {model} --data {data}": TORCH,
    "evaluate {model} --data {data} --report {out}": TORCH | {"plotly", "scipy"},
    "evaluate-segments --help": NOTHING,
    "serve --help": NOTHING,
    "generate --generator procedural --prompts {prompts} --n 1 --out {out}": SCIPY,
    "doctor": LIBRARIES,
}
COMMAND = "from clouds.cli.app import main; raise SystemExit(main())"
COMPOSE = "import clouds; clouds.compose(backbone='tiny', head='mask2former', device='cpu')"
_IMPORTED = re.compile(r"^import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)


def imported_by(*words: str) -> set[str]:
    """Modules that `python -c WORDS` imports, by `-X importtime`."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(_IMPORTED.findall(done.stderr))


@pytest.mark.parametrize("command", ALLOWED)
def test_a_command_loads_no_other_heavy_module(command: str, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("A photo of a street with cars.\n", encoding="utf-8")
    places = {
        "model": checkpoint,
        "image": photos / "images" / "val" / "a.png",
        "data": f"folder:{photos}:val",
        "prompts": tmp_path / "prompts.txt",
        "out": tmp_path / "out",
        "run": write_evaluated_run(tmp_path / "run"),
    }
    modules = imported_by(COMMAND, *(word.format(**places) for word in command.split()))
    assert "clouds.cli.app" in modules
    assert modules & HEAVY - ALLOWED[command] == set()


def test_composing_loads_torch_alone() -> None:
    modules = imported_by(COMPOSE)
    assert "clouds.heads.mask2former" in modules
    assert modules & HEAVY == {"torch"}
