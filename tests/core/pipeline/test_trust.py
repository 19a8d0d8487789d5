"""What a saved pipeline's plan may do by itself: build networks from the weights beside it, and nothing else."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import clouds
from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Component, Kind
from clouds.core.contract.interfaces import Prompter
from clouds.core.contract.plan import PlanError
from clouds.core.contract.schema import read_schema
from clouds.core.system.errors import ComponentError, ConfigError, TrustError, WeightsError

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
Saved = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Saves a pipeline whose plan then says something else."""

    def save(kind: str, *, name: str | None = None, **options: Any) -> Path:
        parts = {"backbone": TINY, "head": {"name": "linear", "width": 8}, "generator": "procedural"}
        pipeline = clouds.compose(**parts, refiner="regions", prompter="grammar", device="cpu")
        pipeline.trained = True
        pipeline.save(tmp_path / "out")
        path = tmp_path / "out" / "plan.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        part = next(part for part in document["parts"] if part["kind"] == kind)
        part.update({"name": name, "options": options} if name else {"options": {**part["options"], **options}})
        path.write_text(json.dumps(document), encoding="utf-8")
        return path.parent

    return save


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("something tried to connect")

    monkeypatch.setattr("socket.socket.connect", connect)


OUTWARD = [
    ("prompter", "llm", {"model": "m", "url": "http://localhost:1/v1"}, r"a language model or its server \(.*url="),
    ("prompter", "llm", {"model": "owner/name"}, r"a language model or its server \(model='owner/name'\)"),
    ("prompter", "file", {"path": "/etc/passwd"}, r"a text file \(path='/etc/passwd'\)"),
    ("generator", "stable-diffusion-2", {}, r"out of this folder \(pretrained=True\)"),
    ("generator", "sdxl", {"pretrained": False, "model": "owner/name"}, r"out of this folder \(model='owner/name'\)"),
    ("generator", "sdxl", {"pretrained": False, "revision": "main"}, r"out of this folder \(revision='main'\)"),
    ("refiner", "sam-vit-b", {}, r"out of this folder \(pretrained=True\)"),
    ("refiner", "sam-vit-b", {"pretrained": "/etc/passwd"}, r"out of this folder \(pretrained='/etc/passwd'\)"),
    ("refiner", "sam-vit-b", {"pretrained": False, "cache": "/tmp/c"}, r"out of this folder \(cache='/tmp/c'\)"),
]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("kind", "name", "options", "message"), OUTWARD)
def test_a_part_that_reaches_out_needs_consent(
    saved: Saved, kind: str, name: str, options: dict[str, Any], message: str
) -> None:
    pipeline = clouds.load(saved(kind, name=name, **options), device="cpu")
    remedy = rf"clouds\.load\('.*out', trust=\('{kind}',\)\), or pass the part anew: ready=\{{'{kind}': \.\.\.\}}"
    with pytest.raises(TrustError, match=rf"plan\.json: {kind} '{name}' reaches {message}.*{remedy}"):
        getattr(pipeline, kind)


def test_parts_that_reach_nothing_need_none(saved: Saved) -> None:
    pipeline = clouds.load(saved("refiner", name="sam-vit-b", pretrained=False, points=3), device="cpu")
    assert pipeline.refiner is not None
    assert pipeline.generator is not None
    assert pipeline.prompter is not None


def test_the_callers_consent_is_for_the_parts_that_it_names(saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a tram at night\n", encoding="utf-8")
    folder = saved("prompter", name="file", path=str(tmp_path / "prompts.txt"))
    with pytest.raises(TrustError, match="prompter 'file'"):
        _ = clouds.load(folder, device="cpu", trust=("generator", "refiner")).prompter
    for trust in (("prompter",), "prompter"):
        prompter = clouds.load(folder, device="cpu", trust=trust).prompter
        assert prompter is not None
        assert prompter.prompts(1, seed=0) == ["a tram at night"]
    with pytest.raises(ComponentError, match="unknown kind 'promter'; expected one of backbone"):
        clouds.load(folder, trust=["promter"])


@pytest.mark.parametrize("trust", [(), ("prompter",)])
def test_a_plan_never_says_where_secrets_are(saved: Saved, trust: tuple[str, ...]) -> None:
    folder = saved("prompter", name="llm", model="m", url="http://localhost:1/v1", key_variable="AWS_SECRET_ACCESS_KEY")
    message = (
        r"key_variable='AWS_SECRET_ACCESS_KEY' comes from .*plan\.json -> a plan never says where secrets are; pass"
    )
    with pytest.raises(PlanError, match=message):
        _ = clouds.load(folder, device="cpu", trust=trust).prompter


def test_what_the_caller_passes_anew_is_the_callers(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    asked = {"name": "llm", "model": "m", "url": "http://localhost:1/v1", "key_variable": "MY_KEY"}
    pipeline = clouds.load(saved("head"), device="cpu", ready={"prompter": asked})
    prompter: Any = pipeline.prompter
    assert prompter.model.key == "secret"
    pipeline.save(tmp_path / "again")
    assert "MY_KEY" not in (tmp_path / "again" / "plan.json").read_text(encoding="utf-8")
    assert "MY_KEY" not in str(pipeline.plan)
    assert pipeline.plan.parts[Kind.PROMPTER].request["key_variable"] == "MY_KEY"
    with pytest.raises(PlanError, match="unknown option 'hat'"):
        clouds.load(tmp_path / "again", ready={"prompter": {**asked, "hat": 1}})


@pytest.mark.usefixtures("no_network")
def test_weights_of_networks_come_from_the_folder_alone(saved: Saved) -> None:
    """Whatever the plan says of published weights; these here are of another model."""
    for options in ({}, {"pretrained": True}, {"pretrained": "/etc/passwd"}):
        with pytest.raises(WeightsError, match=r"does not fit|far larger"):
            clouds.load(saved("backbone", name="timm:convnext_atto", **options), device="cpu")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("pretrained", [True, "/etc/passwd"])
def test_a_note_on_weights_elsewhere_needs_consent(saved: Saved, pretrained: bool | str) -> None:
    folder = saved("backbone", name="timm:convnext_atto")
    (folder / "backbone.json").write_text(json.dumps({"pretrained": pretrained, "sha256": "0"}), encoding="utf-8")
    message = rf"backbone 'timm:convnext_atto' reaches out of this folder \(pretrained={pretrained!r}\)"
    with pytest.raises(TrustError, match=message):
        clouds.load(folder, device="cpu")


@pytest.mark.parametrize("name", ["plan.json", "head.safetensors", "backbone.safetensors", "kept.safetensors"])
def test_a_link_out_of_the_folder_is_refused(saved: Saved, tmp_path: Path, name: str) -> None:
    folder = saved("head")
    elsewhere = tmp_path / "elsewhere"
    if (folder / name).exists():
        (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(WeightsError, match=rf"{name} is a link out of the folder; replace it by a copy of the file"):
        clouds.load(folder, device="cpu")


def test_links_of_the_hubs_cache_are_followed(saved: Saved, tmp_path: Path) -> None:
    blobs = tmp_path / "models--owner--name" / "blobs"
    snapshot = blobs.parent / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in saved("head").iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs", path.name))
    assert clouds.load(snapshot, device="cpu").trained


# -- components of plugins ---------------------------------------------------------------------------------------------


class Words(Prompter):
    """Says what it was given."""

    def __init__(self, *given: object) -> None:
        self.given = given

    def prompts(self, n: int, *, seed: int) -> list[str]:
        return [str(self.given)] * n


def words(
    *,
    style: Literal["plain", "long"] = "plain",
    server: str = "http://mine",
    extra: Any = None,
    names: tuple[str, ...] = ("a",),
    by_name: dict[str, int] | None = None,
) -> Prompter:
    return Words(style, server, extra, names, by_name)


def token(*, token_variable: str | None = None) -> Prompter:
    return Words(token_variable)


def online() -> Prompter:
    return Words()


class Plugin:
    """Prompters that declare as little as they can."""

    @clouds.hookimpl
    def clouds_prompters(self) -> list[Component]:
        return [
            self.one("words"),
            self.one("token", credentials=("token_variable",)),
            self.one("online", reaches="the web"),
        ]

    def one(self, name: str, **fields: Any) -> Component:
        return Component(name=name, kind="prompter", factory=f"test_trust:{name}", summary="words", **fields)


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Any]:
    """Builds a prompter of the plugin as a stranger's plan names it."""
    modules = ("backbones", "generators", "heads")
    built_in = {f"clouds-dgss:{name}": import_module(f"clouds.{name}.components") for name in modules}
    catalog = Catalog({**built_in, "stranger": Plugin()})

    def build(name: str, **options: Any) -> Any:
        pipeline = clouds.compose(backbone=TINY, head="linear", prompter="words", device="cpu", catalog=catalog)
        pipeline.trained = True
        pipeline.save(tmp_path / "out")
        path = tmp_path / "out" / "plan.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        next(part for part in document["parts"] if part["kind"] == "prompter").update(name=name, options=options)
        path.write_text(json.dumps(document), encoding="utf-8")
        return clouds.load(path.parent, device="cpu", catalog=catalog).prompter

    return build


def test_an_undeclared_option_of_free_text_needs_consent(plugin: Callable[..., Any]) -> None:
    for options in (
        {"server": "http://other"},
        {"extra": "/etc/passwd"},
        {"extra": {"a": [{"b": "/etc/passwd"}]}},
        {"extra": [["x"]]},
        {"names": ["b"]},
        {"by_name": {"/etc/passwd": 1}},
    ):
        with pytest.raises(TrustError, match=rf"prompter 'words' reaches out of this folder \({next(iter(options))}="):
            plugin("words", **options)


def test_words_of_a_list_numbers_and_defaults_need_none(plugin: Callable[..., Any]) -> None:
    options = {"style": "long", "server": "http://mine", "extra": 3, "names": ["a"], "by_name": {}}
    assert plugin("words", **options).given == ("long", "http://mine", 3, ("a",), {})
    assert plugin("words").given == ("plain", "http://mine", None, ("a",), None)  # what the plan lacks has its default


def test_what_a_component_declares_counts_whatever_its_options(plugin: Callable[..., Any]) -> None:
    with pytest.raises(TrustError, match="prompter 'online' reaches the web; if you trust"):
        plugin("online")


def test_credentials_of_plugins_are_the_callers_too(plugin: Callable[..., Any]) -> None:
    assert plugin("token", token_variable=None).given == (None,)
    with pytest.raises(PlanError, match=r"token_variable='HOME' comes from .*plan\.json"):
        plugin("token", token_variable="HOME")


def test_what_takes_the_place_of_defaults_must_be_options() -> None:
    changed = {"style": "plain"}
    component = Component(name="x", kind="prompter", factory="test_trust:online", summary="x", without_consent=changed)
    with pytest.raises(ComponentError, match="no parameter 'style', which the component names"):
        read_schema(component)


def test_credentials_must_be_options() -> None:
    component = Component(name="x", kind="prompter", factory="test_trust:online", summary="x", credentials="key")
    with pytest.raises(ComponentError, match="no parameter 'key', which the component names"):
        read_schema(component)


# -- plans of other versions, and altered ones -------------------------------------------------------------------------


def test_options_of_another_version_are_named_with_both(saved: Saved) -> None:
    between = r"-> the plan is of clouds-dgss \S+, installed is \S+"
    for options, message in (
        ({"no_such_option": 1}, "head: linear: unknown option 'no_such_option'; known: detail, detail_weight, width"),
        ({"width": "8"}, "head: linear: option width='8' is not of type int"),
        ({"width": True}, "head: linear: option width=True is not of type int"),
    ):
        with pytest.raises(PlanError, match=f"{message}.*{between}"):
            clouds.load(saved("head", **options), device="cpu")


def test_options_that_an_older_plan_lacks_have_their_defaults(saved: Saved) -> None:
    folder = saved("refiner", name="regions", cell=4)
    refiner: Any = clouds.load(folder, device="cpu").refiner
    assert (refiner.cell, refiner.rounds) == (4, 5)


def test_a_plan_without_a_head_says_so(saved: Saved) -> None:
    path = saved("head") / "plan.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["parts"] = [part for part in document["parts"] if part["kind"] != "head"]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(PlanError, match="head: the plan has none -> a pipeline has a backbone and a head"):
        clouds.load(path.parent)


def test_a_ready_module_of_a_helper_is_asked_for(saved: Saved) -> None:
    path = saved("prompter") / "plan.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    next(part for part in document["parts"] if part["kind"] == "prompter")["ready"] = "mine:Words"
    path.write_text(json.dumps(document), encoding="utf-8")
    pipeline = clouds.load(path.parent, device="cpu")
    with pytest.raises(ConfigError, match=r"the prompter was a ready module \(mine:Words\); pass it again"):
        _ = pipeline.prompter
    assert clouds.load(path.parent, ready={"prompter": Words("mine")}, device="cpu").prompter is not None


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("head", {"width": 10**12}),
        ("head", {"width": 10**8}),
        ("head", {"width": -1}),
        ("backbone", {"dims": [10**6, 16, 24, 32]}),
        ("backbone", {"dims": [8, 16]}),
        ("backbone", {"depths": [10**7, 1, 1, 1]}),
        ("backbone", {"depths": [10**400, 1, 1, 1]}),
    ],
)
def test_sizes_that_the_weights_do_not_have_build_nothing(saved: Saved, kind: str, options: dict[str, Any]) -> None:
    """Neither memory nor time is spent: what is registered is counted before memory is touched."""
    with pytest.raises((PlanError, WeightsError), match=r"cannot be built with|asks for a far larger"):
        clouds.load(saved(kind, **options), device="cpu")


def test_a_published_checkpoint_of_impossible_shapes_builds_nothing() -> None:
    """A tensor may show more elements than a file holds; 10**10 queries are none."""
    stem = "backbone.clip_model.visual."
    state = {f"{stem}conv1.weight": torch.zeros(1).expand(32, 3, 3, 3)}
    depths = enumerate((3, 4, 6, 3), 1)
    state |= {f"{stem}layer{s}.{k}.conv1.weight": torch.zeros(1) for s, blocks in depths for k in range(blocks)}
    attention = "sem_seg_head.predictor.transformer_self_attention_layers"
    many = {f"{attention}.{layer}.x": torch.zeros(1) for layer in range(20_000)}
    with pytest.raises(WeightsError, match=r"the state dict: holds .* asks for a far larger"):
        clouds.from_reference_checkpoint({**state, **many}, device="cpu")
