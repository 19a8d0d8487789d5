"""What must stay light: none of this imports torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import clouds

HEAVY = "{'torch', 'torchvision', 'timm', 'open_clip', 'kornia', 'scipy', 'plotly'}"


def loaded_by(statements: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after these statements."""
    program = f"{statements}\nimport sys\nprint(*(set(sys.modules) & {HEAVY}), sep='\\n', file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stderr.split())


@pytest.mark.parametrize(
    "statements",
    [
        "import clouds",
        "import clouds; clouds.catalog().names('backbone')",
        "import clouds; clouds.plan(backbone='tiny', head='linear')",
        "import clouds; clouds.LabelSpace.from_names(['a']); clouds.Component; clouds.hookimpl; dir(clouds)",
        "import clouds.kernels; dir(clouds.kernels)",
    ],
)
def test_the_package_is_light(statements: str) -> None:
    assert loaded_by(statements) == set()


def test_presets_are_light() -> None:
    folder = Path(clouds.__file__).parent
    modules = [f"clouds.{path.parent.name}.{path.stem}" for path in folder.glob("*/presets.py")]
    modules += [f"clouds.{path.parent.name}.{path.stem}" for path in folder.glob("*/components.py")]
    assert len(modules) == 13
    assert loaded_by("\n".join(f"import {module}" for module in modules)) == set()


def test_every_public_name_exists() -> None:
    assert [name for name in clouds.__all__ if not hasattr(clouds, name)] == []
    assert set(dir(clouds)) == set(clouds.__all__)
    with pytest.raises(AttributeError, match="module 'clouds' has no attribute 'copmose'"):
        clouds.copmose  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
