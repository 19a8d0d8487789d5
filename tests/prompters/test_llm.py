"""The prompter of language models: its loop with models that are scripted, and a real one of random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.errors import ConfigError, WeightsError
from clouds.prompters.chat_models import ChatModel, LocalModel, Sampling
from clouds.prompters.llm import CoverageWarning, LlmPrompter
from clouds.prompters.llm_text import caption_key
from clouds.prompters.presets import grammar, llm
from clouds.prompters.prompt_statistics import classes_named, describe_prompts
from clouds.testing.prompter import check_prompter

FEW = LabelSpace.from_names(["road", "car", "train"])


class Scripted(ChatModel):
    """Answers from a list, then nothing; it keeps the questions."""

    name = "scripted"

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.questions: list[str] = []
        self.seeds: list[int] = []

    def answer(self, question: str, *, seed: int, examples: Sequence[tuple[str, str]] = ()) -> str:
        self.questions.append(question)
        self.seeds.append(seed)
        return self.answers[len(self.questions) - 1] if len(self.questions) <= len(self.answers) else ""


class Drawing(ChatModel):
    """Answers with sentences of the grammar, some of them again; the same for the same seed."""

    name = "drawing"

    def __init__(self, per_answer: int) -> None:
        self.per_answer = per_answer

    def answer(self, question: str, *, seed: int, examples: Sequence[tuple[str, str]] = ()) -> str:
        captions = grammar(CITYSCAPES).prompts(self.per_answer, seed=seed % 5)
        return "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions, start=1))


def listed(*captions: str) -> str:
    return "\n".join(f"- {caption}" for caption in captions)


def test_repetitions_are_left_out_and_made_up_for() -> None:
    model = Scripted(listed("A road at night", "a Road, at night!", "Two cars"), listed("A train at dusk", "A red car"))
    prompter = LlmPrompter(model, FEW, batch=3)
    assert prompter.prompts(3, seed=0) == ["A road at night", "A train at dusk", "A red car"]
    assert len(model.questions) == 2


def test_questions_name_what_is_missing_and_what_was_written() -> None:
    model = Scripted(listed("A road at night", "A wide road"), listed("A red car there"), listed("A train at dusk"))
    assert len(LlmPrompter(model, FEW, batch=5).prompts(4, seed=0)) == 4
    first, second, third = model.questions
    assert "Write 4 different captions" in first
    assert "Objects are taken from: road, car, train." in first
    assert "Do not repeat" not in first
    assert "Write 2 different captions" in second
    assert "Objects are taken from: car, train." in second
    assert "Do not repeat these:\n- A road at night\n- A wide road\n" in second
    assert "Objects are taken from: train." in third
    assert len({*model.seeds}) == 3


def test_every_class_is_named_where_there_is_room() -> None:
    """Captions that name a class of their own come before others, in the order in which they were written."""
    model = Scripted(
        listed("A road at night", "A wide road", "A long road"), listed("A car at dusk", "A train at dawn")
    )
    prompts = LlmPrompter(model, FEW, batch=3).prompts(3, seed=0)
    assert prompts == ["A road at night", "A car at dusk", "A train at dawn"]
    assert len(model.questions) == 2


def test_classes_that_do_not_come_are_named() -> None:
    model = Scripted(listed("A road at night", "A wide road", "A car at dusk"), listed("A car at dawn"), "never asked")
    prompter = LlmPrompter(model, FEW, batch=3)
    with pytest.warns(CoverageWarning, match="no prompt names train"):
        assert prompter.prompts(3, seed=0) == ["A road at night", "A wide road", "A car at dusk"]
    assert len(model.questions) == 2


def test_few_prompts_need_not_name_every_class() -> None:
    model = Scripted(listed("A road at night"))
    assert LlmPrompter(model, FEW).prompts(1, seed=0) == ["A road at night"]
    assert len(model.questions) == 1


@pytest.mark.parametrize(("batch", "asked"), [(1, 6), (4, 4), (25, 2)])
def test_a_model_that_does_not_answer_ends(batch: int, asked: int) -> None:
    model = Scripted(listed("A road at night"), "Sorry, I cannot do that.")
    prompter = LlmPrompter(model, FEW, batch=batch, rounds=2)
    n = 3 if batch == 1 else 5
    match = rf"{asked} answers of scripted have 1 distinct captions, but {n} were requested; use a model that follows"
    with pytest.raises(ConfigError, match=match):
        prompter.prompts(n, seed=0)
    assert len(model.questions) == asked


def test_no_prompts_ask_nothing() -> None:
    model = Scripted()
    assert LlmPrompter(model, FEW).prompts(0, seed=0) == []
    assert model.questions == []


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ConfigError, match="-1 prompts were asked for; ask for 0 or more"):
        LlmPrompter(Scripted(), FEW).prompts(-1, seed=0)
    with pytest.raises(ConfigError, match="prompter llm: batch=0; expected at least 1"):
        LlmPrompter(Scripted(), FEW, batch=0)
    with pytest.raises(ConfigError, match="prompter llm: rounds=-2; expected at least 1"):
        LlmPrompter(Scripted(), FEW, rounds=-2)


@settings(max_examples=15)
@given(n=st.integers(0, 40), seed=st.integers(0, 2**32), per_answer=st.integers(5, 30))
def test_prompts_are_distinct_and_repeatable(n: int, seed: int, per_answer: int) -> None:
    prompter = LlmPrompter(Drawing(per_answer), CITYSCAPES, batch=5, rounds=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        try:
            prompts = prompter.prompts(n, seed=seed)
        except ConfigError:
            assert n > per_answer  # there are no more than 5 times as many, and not all seeds come
            return
        assert prompter.prompts(n, seed=seed) == prompts
    assert len(prompts) == n == len({caption_key(prompt) for prompt in prompts})


@given(st.permutations(list(CITYSCAPES.names)))
def test_classes_are_found_in_singular_and_plural(names: list[str]) -> None:
    for name in names[:3]:
        for form in (name, f"{name}s", name.upper()):
            assert name in classes_named(f"A photo of a {form}, at night.", CITYSCAPES)
    assert classes_named("", CITYSCAPES) == set()


@pytest.mark.parametrize(
    ("prompt", "classes"),
    [
        ("A carpet in a museum", set()),
        ("Two buses and a tram on a busy street", {"bus", "train", "road"}),
        ("A cyclist waits at the traffic lights", {"rider", "traffic light"}),
        ("People on the pavement under trees", {"person", "sidewalk", "vegetation"}),
    ],
)
def test_words_for_classes(prompt: str, classes: set[str]) -> None:
    assert classes_named(prompt, CITYSCAPES) == classes


def test_the_grammar_names_what_it_has_words_for() -> None:
    """Every sentence has a weather and a time, as the grammar's form says."""
    found = describe_prompts(grammar(CITYSCAPES).prompts(100, seed=0), CITYSCAPES)
    assert found.prompts == found.distinct == 100
    assert found.weather["not said"] == found.time["not said"] == 0
    assert sum(found.weather.values()) == 100
    assert min(found.weather[name] for name in ("rain", "fog", "snow", "clear", "overcast")) >= 15  # of 20 each


WORDS = ("a", "photo", "of", "car", "road", "tree", "night", "rain", "fog")


def save_model(folder: Path, *, template: str | None) -> Path:
    """A Llama of two small layers, random weights, that knows ten words and the end of a line."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = ["<unk>", "</s>", "\n", *WORDS]
    words = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = template
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), template=TEMPLATE)


def test_the_contract_with_a_real_model(folder: Path) -> None:
    prompter = llm(CITYSCAPES, model=str(folder), device="cpu", max_tokens=80, rounds=20, batch=5)
    check_prompter(prompter)
    assert prompter.prompts(3, seed=0) != prompter.prompts(3, seed=1)


def test_the_contract_of_single_captions(folder: Path) -> None:
    """Random weights write nothing that names a scene, so the grammar's words are taken."""
    prompter = llm(CITYSCAPES, model=str(folder), device="cpu", max_tokens=5, rounds=2)
    check_prompter(prompter, most=3)
    assert {str(prompt.origin) for prompt in prompter.write(2, seed=0)} == {"{'by': 'grammar', 'questions': 2}"}


def test_examples_come_before_the_question(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(str(folder), revision=None, device="cpu", sampling=Sampling(max_tokens=2))
    tokenizer, _ = model._loaded
    asked: list[list[dict[str, str]]] = []
    template = tokenizer.apply_chat_template
    monkeypatch.setattr(
        tokenizer, "apply_chat_template", lambda said, **options: asked.append(said) or template(said, **options)
    )
    model.answer("a road", seed=0, examples=[("a photo", "a car")])
    assert [(turn["role"], turn["content"]) for turn in asked[0]] == [
        ("user", "a photo"),
        ("assistant", "a car"),
        ("user", "a road"),
    ]


def test_answers_follow_the_seed_and_leave_torchs_alone(folder: Path) -> None:
    import torch

    model = LocalModel(str(folder), revision=None, device="cpu", sampling=Sampling(max_tokens=20))
    state = torch.get_rng_state()
    first = model.answer("a photo", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.answer("a photo", seed=1) == first != model.answer("a photo", seed=2)
    greedy = LocalModel(str(folder), revision=None, device="cpu", sampling=Sampling(temperature=0.0, max_tokens=20))
    assert greedy.answer("a photo", seed=1) == greedy.answer("a photo", seed=2)


def test_models_come_from_the_folder_for_machines_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "someone" / "model", template=TEMPLATE)
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    model = LocalModel("someone/model", revision=None, device="cpu", sampling=Sampling(max_tokens=5))
    assert isinstance(model.answer("a photo", seed=0), str)


def test_a_revision_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path / "someone" / "model", template=TEMPLATE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    local = LocalModel(str(folder), revision="main", device="cpu", sampling=Sampling())
    with pytest.raises(ConfigError, match=r"model is local, so it has no revision 'main'; remove it"):
        local.answer("a photo", seed=0)
    carried = LocalModel("someone/model", revision="main", device="cpu", sampling=Sampling())
    with pytest.raises(WeightsError, match=r"language model 'someone/model' could not be loaded"):
        carried.answer("a photo", seed=0)


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    model = LocalModel(str(save_model(tmp_path, template=None)), revision=None, device="cpu", sampling=Sampling())
    with pytest.raises(ConfigError, match=r"has no chat template, so it cannot answer questions; use a model tuned"):
        model.answer("a photo", seed=0)


def missing(folder: Path) -> str:
    return str(folder / "nowhere")


def damaged(folder: Path) -> str:
    weights = save_model(folder / "damaged", template=TEMPLATE) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return str(weights.parent)


def pickled(folder: Path) -> str:
    """Weights in a format that may carry code."""
    weights = save_model(folder / "pickled", template=TEMPLATE) / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    return str(weights.parent)


@pytest.mark.parametrize("make", [missing, damaged, pickled])
def test_models_that_cannot_be_had_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = LocalModel(make(tmp_path), revision=None, device="cpu", sampling=Sampling())
    with pytest.raises(WeightsError, match=r"language model '.*' could not be loaded .*model=FOLDER, or owner/name in"):
        model.answer("a photo", seed=0)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_tokens": 0}])
def test_wrong_ways_to_draw_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"expected temperature >= 0, 0 < top_p <= 1, max_tokens >= 1"):
        Sampling(**wrong)  # pyright: ignore[reportArgumentType]
