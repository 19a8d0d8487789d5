import json
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_models import CATALOG, published
from safetensors import SafetensorError
from safetensors.torch import save_file

import clouds
from clouds.core.contract.interfaces import Backbone
from clouds.core.contract.plan import PlanError
from clouds.core.contract.records import Features
from clouds.core.pipeline import checkpoint
from clouds.core.system.errors import ConfigError, DataError, NonFiniteError, TrustError, WeightsError

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALLEST = {"queries": 20, "width": 64, "layers": 1, "feedforward": 32, "encoder_layers": 1, "encoder_feedforward": 32}
SMALL_HEAD = {"name": "mask2former", "queries": 3, "width": 4, "layers": 1, "encoder_layers": 1}
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture
def pipeline() -> clouds.Pipeline:
    made = clouds.compose(backbone=TINY, head="linear", refiner="regions", prompter="grammar", device="cpu")
    made.trained = True
    return made


def test_a_loaded_pipeline_is_the_saved_one(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "out")
    loaded = clouds.load(tmp_path / "out", device="cpu")
    assert loaded.plan == pipeline.plan
    assert loaded.trained
    assert (loaded.predict(IMAGE).scores() == pipeline.predict(IMAGE).scores()).all()
    assert type(loaded.refiner) is type(pipeline.refiner)
    assert type(loaded.prompter) is type(pipeline.prompter)
    assert loaded.generator is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "backbone.safetensors",
        "head.safetensors",
        "plan.json",
    ]


def test_custom_label_spaces_survive(tmp_path: Path) -> None:
    labels = clouds.LabelSpace.from_names(["ground", "sky"], synonyms=[["soil", "floor"], ["air"]])
    pipeline = clouds.compose(backbone=TINY, head="linear", labels=labels, device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "out")
    assert clouds.load(tmp_path / "out").labels == labels


def test_saving_again_replaces_and_leaves_no_temporary_file(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "out")
    pipeline.save(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_the_earlier_pipeline(
    pipeline: clouds.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.save(tmp_path / "out")
    before = clouds.load(tmp_path / "out", device="cpu").predict(IMAGE).labels
    with torch.no_grad():
        for parameter in pipeline.head.parameters():
            parameter.zero_()
    plain, files = checkpoint.save_file, []

    def fill(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        if files:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        files.append(path)
        plain(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", fill)
    with pytest.raises(DataError, match=r"the pipeline cannot be written: .*No space left.*earlier one is unchanged"):
        pipeline.save(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (clouds.load(tmp_path / "out", device="cpu").predict(IMAGE).labels == before).all()


def test_a_folder_with_something_else_is_not_touched(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match=r"exists and has no plan\.json"):
        pipeline.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no saved pipeline here \(plan\.json is missing\)"):
        clouds.load(tmp_path)


def test_a_run_folder_says_where_its_pipelines_are(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "run" / "warmup")
    with pytest.raises(WeightsError, match=r"saved pipelines are in .*warmup"):
        clouds.load(tmp_path / "run")


def test_truncated_weights_are_named(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "out")
    path = tmp_path / "out" / "backbone.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"backbone\.safetensors: not a whole safetensors file"):
        clouds.load(tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_when_they_are_read(
    pipeline: clouds.Pipeline, tmp_path: Path, value: float
) -> None:
    pipeline.save(tmp_path / "out")
    path = tmp_path / "out" / "head.safetensors"
    state = pipeline.head.state_dict()
    name = next(iter(state))
    state[name].view(-1)[0] = value
    save_file(state, path, {"trained": "True"})
    with pytest.raises(NonFiniteError, match=rf"head\.safetensors: {name} of LinearHead are not finite"):
        clouds.load(tmp_path / "out", device="cpu")


def test_a_missing_weight_file_is_named(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "out")
    (tmp_path / "out" / "backbone.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"backbone\.safetensors: no such weight file"):
        clouds.load(tmp_path / "out")


def test_weights_of_another_model_are_refused_with_their_keys(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "out")
    plan = tmp_path / "out" / "plan.json"
    plan.write_text(plan.read_text(encoding="utf-8").replace('"width": 128', '"width": 64'), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"does not fit LinearHead: .*wrong shapes: .*expected \(64,"):
        clouds.load(tmp_path / "out")


@pytest.mark.parametrize("text", ["{}", "[1]", "nonsense", '{"format": 99}'])
def test_a_damaged_plan_is_named(pipeline: clouds.Pipeline, tmp_path: Path, text: str) -> None:
    pipeline.save(tmp_path / "out")
    (tmp_path / "out" / "plan.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"plan\.json: (this is not a plan|the plan has format)"):
        clouds.load(tmp_path / "out")


def _without_plugins(folder: Path, **named: tuple[str, str]) -> Path:
    """Let the plan name these components and distributions by kind."""
    document = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    parts = {part["kind"]: part for part in document["parts"]}
    for kind, (name, distribution) in named.items():
        blank = {"kind": kind, "options": {}}
        parts[kind] = {**parts.get(kind, blank), "name": name, "distribution": distribution, "version": "1.2"}
    document["parts"] = list(parts.values())
    (folder / "plan.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_every_component_that_is_not_installed_is_named_with_its_command(
    pipeline: clouds.Pipeline, tmp_path: Path
) -> None:
    pipeline.save(tmp_path / "out")
    missing = {"backbone": ("gone", "some-plugin"), "head": ("lost", "Other_Plugin"), "prompter": ("llm2", "third")}
    _without_plugins(tmp_path / "out", **missing)
    with pytest.raises(PlanError, match=r"^the plan has 3 problems:") as caught:
        clouds.load(tmp_path / "out")
    for line, (kind, (name, distribution)) in zip(caught.value.problems, missing.items(), strict=True):
        assert str(line).startswith(
            f"{kind}: {name!r} of {distribution} 1.2 is not installed -> if you trust its authors: pip install "
        )
    remedies = [problem.remedy.rpartition(" ")[2] for problem in caught.value.problems]
    assert remedies == ["some-plugin", "other-plugin", "third"]


def test_what_only_training_needs_is_missed_when_it_is_used(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "out")
    loaded = clouds.load(_without_plugins(tmp_path / "out", prompter=("llm2", "third")), device="cpu")
    with pytest.raises(PlanError, match=r"'llm2' of third 1\.2 is not installed -> .* pip install third$"):
        _ = loaded.prompter


@pytest.mark.parametrize("distribution", ["x; rm -rf ~", "--index-url=evil", "", "a b"])
def test_no_command_is_made_of_a_name_that_is_no_distribution(
    pipeline: clouds.Pipeline, tmp_path: Path, distribution: str
) -> None:
    pipeline.save(tmp_path / "out")
    with pytest.raises(PlanError, match=r"'gone' of .* is not installed$") as caught:
        clouds.load(_without_plugins(tmp_path / "out", backbone=("gone", distribution)))
    assert "pip" not in str(caught.value)


def test_a_component_of_a_newer_version_asks_for_it(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "out")
    with pytest.raises(PlanError, match=r"of clouds-dgss 1\.2 is not installed -> pip install --upgrade clouds-dgss$"):
        clouds.load(_without_plugins(tmp_path / "out", backbone=("of-tomorrow", "clouds-dgss")))


def test_the_files_can_be_read_by_all(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "out")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o644}


class Ready(Backbone):
    """A module that no catalog knows."""

    def __init__(self) -> None:
        specs = {f"res{i + 2}": clouds.FeatureSpec(channels=3, stride=4 * 2**i) for i in range(4)}
        super().__init__(features=specs, mean=(0, 0, 0), std=(255, 255, 255))
        self.gain = torch.nn.Parameter(torch.rand(1))

    def forward(self, images: torch.Tensor) -> Features:
        maps = [torch.nn.functional.avg_pool2d(self.normalize(images) * self.gain, 4 * 2**i) for i in range(4)]
        return Features(res2=maps[0], res3=maps[1], res4=maps[2], res5=maps[3])


def test_ready_modules_are_passed_again(tmp_path: Path) -> None:
    pipeline = clouds.compose(backbone=Ready(), head="linear", device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"the backbone was a ready module .*Ready\); pass it again"):
        clouds.load(tmp_path / "out")
    loaded = clouds.load(tmp_path / "out", ready={"backbone": Ready()})
    assert (loaded.predict(IMAGE).scores() == pipeline.predict(IMAGE).scores()).all()


class TestTextClassifier:
    """Text embeddings are saved, too, whether they were asked for before or not."""

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        pipeline = clouds.compose(backbone=TINY, head={"name": "mask2former-text", **SMALLEST}, device="cpu")
        pipeline.trained = True
        pipeline.save(tmp_path / "out")
        return tmp_path / "out"

    def test_a_loaded_pipeline_embeds_no_text(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = clouds.load(saved, device="cpu")
        monkeypatch.setattr(type(loaded.backbone), "embed_text", None)
        classifier = loaded.classifier
        assert classifier is not None
        assert classifier.pooler is loaded.backbone
        assert classifier.seen.all()
        assert len(classifier.seen) == 19
        assert len(classifier.embeddings) == len(classifier.class_of) == sum(map(len, loaded.labels.synonyms))
        assert loaded.predict(IMAGE).labels.shape == IMAGE.shape[:2]

    def test_it_is_the_one_that_would_be_made(self, saved: Path) -> None:
        loaded = clouds.load(saved, device="cpu").classifier
        (saved / "classifier.safetensors").unlink()
        made = clouds.load(saved, device="cpu").classifier
        assert loaded is not None
        assert made is not None
        assert torch.equal(loaded.embeddings, made.embeddings)
        assert torch.equal(loaded.class_of, made.class_of)
        assert torch.equal(loaded.seen, made.seen)
        assert loaded.logit_scale == made.logit_scale

    def test_another_file_in_its_place_is_named(self, saved: Path) -> None:
        (saved / "head.safetensors").rename(saved / "classifier.safetensors")
        (saved / "head.safetensors").write_bytes((saved / "classifier.safetensors").read_bytes())
        with pytest.raises(WeightsError, match=r"classifier\.safetensors: not as Pipeline\.save writes it \(KeyError"):
            clouds.load(saved)


def test_another_file_in_place_of_kept_tensors_is_named(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pipeline.kept = {"sam.a": torch.zeros(1)}
    pipeline.save(tmp_path / "out")
    (tmp_path / "out" / "kept.safetensors").write_bytes((tmp_path / "out" / "head.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"kept\.safetensors: not as Pipeline\.save writes it \(KeyError: 'order'"):
        clouds.load(tmp_path / "out")


class TestIncludeFrozen:
    """Frozen published weights may be left out of a checkpoint."""

    def compose(self, **backbone: object) -> clouds.Pipeline:
        return clouds.compose(
            backbone={"name": "clip-rn50", **backbone},
            head=SMALL_HEAD,
            pretrained=False,
            device="cpu",
            catalog=CATALOG,
        )

    @pytest.mark.parametrize("pretrained", [True, "weights.bin"])
    def test_the_weights_come_back(self, tmp_path: Path, pretrained: bool | str) -> None:
        pipeline = self.compose(pretrained=pretrained)
        pipeline.save(tmp_path / "out", include_frozen=False, catalog=CATALOG)
        assert not (tmp_path / "out" / "backbone.safetensors").exists()
        with pytest.raises(TrustError, match=r"backbone 'clip-rn50' reaches out of this folder \(pretrained="):
            clouds.load(tmp_path / "out", device="cpu", catalog=CATALOG)
        loaded = clouds.load(tmp_path / "out", device="cpu", catalog=CATALOG, trust=("backbone",))
        assert loaded.plan == pipeline.plan
        for key, value in pipeline.backbone.state_dict().items():
            assert (loaded.backbone.state_dict()[key] == value).all()
        loaded.save(tmp_path / "again", False, catalog=CATALOG)
        assert (tmp_path / "again" / "backbone.json").read_bytes() == (tmp_path / "out" / "backbone.json").read_bytes()

    def test_a_published_checkpoint_with_published_weights(self, tmp_path: Path) -> None:
        weights = self.compose(pretrained=True).backbone.state_dict()
        state = {**published(), **{f"backbone.{key}": value for key, value in weights.items()}}
        pipeline = clouds.from_reference_checkpoint(state, device="cpu", catalog=CATALOG)
        pipeline.save(tmp_path / "out", include_frozen=False, catalog=CATALOG)
        loaded = clouds.load(tmp_path / "out", device="cpu", catalog=CATALOG, trust=("backbone",))
        loaded = loaded.to_reference_state_dict()
        assert list(loaded) == list(state)
        assert all((loaded[key] == value).all() for key, value in state.items())

    def test_a_full_checkpoint_takes_the_place_of_one_without(self, tmp_path: Path) -> None:
        pipeline = self.compose(pretrained=True)
        pipeline.save(tmp_path / "out", include_frozen=False, catalog=CATALOG)
        pipeline.save(tmp_path / "out")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "backbone.safetensors",
            "head.safetensors",
            "plan.json",
        ]

    def test_other_weights_are_not_left_out(self, tmp_path: Path) -> None:
        message = "weights of backbone clip-rn50 are not those of pretrained=True; save with include_frozen=True"
        with pytest.raises(WeightsError, match=message):
            self.compose(pretrained=False).save(tmp_path / "out", include_frozen=False, catalog=CATALOG)
        assert not (tmp_path / "out").exists()

    def test_a_trained_backbone_is_not_left_out(self, tmp_path: Path) -> None:
        pipeline = self.compose(pretrained=True, trainable=True)
        with pytest.raises(WeightsError, match="backbone clip-rn50 is trained, not frozen; save with include_frozen"):
            pipeline.save(tmp_path / "out", include_frozen=False, catalog=CATALOG)

    def test_a_backbone_without_published_weights_is_not_left_out(
        self, pipeline: clouds.Pipeline, tmp_path: Path
    ) -> None:
        with pytest.raises(WeightsError, match="backbone tiny has no published weights; save with include_frozen=True"):
            pipeline.save(tmp_path / "out", include_frozen=False)

    def test_changed_published_weights_are_noticed(self, tmp_path: Path) -> None:
        self.compose(pretrained=True).save(tmp_path / "out", include_frozen=False, catalog=CATALOG)
        path = tmp_path / "out" / "backbone.json"
        path.write_text(path.read_text(encoding="utf-8").replace("true", '"changed"'), encoding="utf-8")
        message = r"backbone\.json: weights of pretrained='changed' are not those that the pipeline was saved with"
        with pytest.raises(WeightsError, match=message):
            clouds.load(tmp_path / "out", device="cpu", catalog=CATALOG, trust=["backbone"])

    @pytest.mark.parametrize("text", ["", "[1]", "{}", '{"pretrained": true}'])
    def test_a_damaged_note_is_named(self, tmp_path: Path, text: str) -> None:
        self.compose(pretrained=True).save(tmp_path / "out", include_frozen=False, catalog=CATALOG)
        (tmp_path / "out" / "backbone.json").write_text(text, encoding="utf-8")
        with pytest.raises(WeightsError, match=r"backbone\.json: not as Pipeline\.save writes it"):
            clouds.load(tmp_path / "out", device="cpu", catalog=CATALOG)
