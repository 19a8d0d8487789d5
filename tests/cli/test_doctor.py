"""`clouds doctor`, with distributions that are really installed, in a folder of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import Run

from clouds.cli import doctor

IMPORT = "import clouds\n"
COMPONENT = "clouds.Component(name={name!r}, kind={kind!r}, factory={factory!r}, summary='s')"

_SECRETS = (
    *("wordless", "lovelace", "private", "MY_OWN_THING", "/ada", "PASSword", "ssWORD", "QUERYsecret", "JSONsecret"),
    "hf_AbCdEfGhIjKlMnOpQr",
)


def hook(name: str, body: str) -> str:
    return f"@clouds.hookimpl\ndef {name}:\n    {body}\n"


def component(name: str, kind: str, factory: str = "clouds.heads.presets:linear") -> str:
    return f"return [{COMPONENT.format(name=name, kind=kind, factory=factory)}]"


PLUGINS = {
    "bad-import": "import no_such_module\n",
    "bad-hook": IMPORT + hook("clouds_bakcbones()", "return []"),
    "bad-raise": IMPORT + hook("clouds_heads()", "raise RuntimeError('no coffee')"),
    "bad-resolve": IMPORT + hook("clouds_resolve(kind, name)", "raise RuntimeError('no tea')"),
    "bad-check": IMPORT + hook("clouds_check_plan(plan)", "raise RuntimeError('no milk')"),
    "bad-name": IMPORT + hook("clouds_heads()", component("linear", "head")),
    "bad-signature": IMPORT
    + "def varying(features, labels, **options): ...\n"
    + hook("clouds_heads()", component("varying", "head", "bad_signature:varying")),
    "good": IMPORT + hook("clouds_heads()", component("fine", "head")),
}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of installed distributions, one per plugin."""
    for name, source in PLUGINS.items():
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[clouds]\nplugin = {module}\n", encoding="utf-8")
    return tmp_path


def test_every_broken_plugin_is_named_with_its_reason_and_the_rest_works(installed: Path) -> None:
    call = [sys.executable, "-c", "from clouds.cli.app import main; raise SystemExit(main())", "doctor", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["healthy"] is False
    reasons = {
        "bad-import": "ModuleNotFoundError: No module named 'no_such_module'",
        "bad-hook": "clouds_bakcbones",
        "bad-raise": "clouds_heads failed: RuntimeError: no coffee",
        "bad-resolve": "clouds_resolve failed: RuntimeError: no tea",
        "bad-check": "clouds_check_plan failed: RuntimeError: no milk",
        "bad-name": "head 'linear' is defined twice: bad-name 1.2 (bad-name::linear) and clouds-dgss",
        "bad-signature": "**options (variadic keyword) hides the options",
    }
    for name, reason in reasons.items():
        assert [text for text in document["troubles"] if f"{name} 1.2" in text and reason in text], (name, document)
    assert document["verdict"] == f"{len(reasons)} things broken, the rest works"
    states = {(one["name"], one["distribution"]): one["error"] for one in document["components"]}
    assert states["fine", "good"] is None
    assert states["tiny", "clouds-dgss"] is None
    assert states["varying", "bad-signature"] is not None


def test_a_sound_installation_is_healthy(run: Run) -> None:
    outcome = run("doctor", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, document["healthy"], document["troubles"]) == (0, True, [])
    assert document["libraries"]["torch"]["version"]
    assert set(document["machine"]) == {"clouds", "python", "platform", "processors", "memory", "cuda", "disk"}
    text = run("doctor").out
    assert text.endswith("verdict: nothing is broken\n")
    assert "xformers" in text


def test_a_missing_library_is_broken_only_when_it_is_needed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor._REMEDIES, "no-such-library", "it does not exist")
    outcome = run("doctor")
    assert outcome.code == 0
    assert "not installed (it does not exist)" in outcome.out
    monkeypatch.setattr(doctor, "_NEEDED", ("no-such-library",))
    outcome = run("doctor")
    assert outcome.code == 1
    assert "broken: no-such-library: not installed (it does not exist)\nverdict: 1 thing broken" in outcome.out


def test_a_library_that_cannot_be_imported_is_broken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "import_module", refuse)
    outcome = run("doctor")
    assert outcome.code == 1
    assert "cannot be imported: RuntimeError: operator torchvision::nms does not exist (install torch" in outcome.out


class TestBundle:
    def test_a_report_holds_the_environment_and_no_secret(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "ada"))
        monkeypatch.setenv("HF_TOKEN", "hf_wordless")
        monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path / "ada" / "weights"))
        monkeypatch.setenv("HF_ENDPOINT", "https://ada:lovelace@hub.example/api")
        monkeypatch.setenv("MY_OWN_THING", "private")
        secret = {
            "TORCH_HOME": "https://me:my@PASSword@hub.local/x",
            "HF_URL": "postgres://u:pa/ssWORD@host",
            "CUDA_ADDRESS": "https://host/v1?api_key=QUERYsecret",
            "RAY_RUNTIME_ENV": '{"env_vars": {"T": "JSONsecret"}}',
            "OMP_NOTE": "hf_AbCdEfGhIjKlMnOpQr",
        }
        for name, value in secret.items():
            monkeypatch.setenv(name, value)
        file = tmp_path / "report.json"
        outcome = run("doctor", "--bundle", file)
        assert "report.json; read it before you attach it" in outcome.out + outcome.err
        text = file.read_text(encoding="utf-8")
        assert not [word for word in _SECRETS if word in text]
        report = json.loads(text)
        assert report["settings"]["HF_TOKEN"] == "(set, not shown)"
        assert report["settings"]["HF_ENDPOINT"] == "https://hub.example/api"
        assert report["settings"]["CLOUDS_WEIGHTS"] == "~/weights"
        assert report["settings"]["TORCH_HOME"] == "https://hub.local/x"
        assert report["settings"]["CUDA_ADDRESS"] == "https://host/v1"
        assert report["distributions"]["attrs"]
        assert report["machine"]["clouds"] == report["distributions"]["clouds-dgss"]
