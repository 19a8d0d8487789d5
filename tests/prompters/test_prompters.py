"""The prompters: a grammar, and a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.errors import ConfigError
from clouds.generators.wish import read_prompt
from clouds.prompters.grammar import KINDS, MOODS, OBJECTS, PLACES, TIMES, WEATHERS
from clouds.prompters.presets import file, grammar

TOTAL = len(KINDS) * len(MOODS) * len(PLACES) * len(OBJECTS) * len(TIMES) * len(WEATHERS)


@settings(max_examples=30)
@given(n=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_grammar_prompts_are_distinct_and_repeatable(n: int, seed: int) -> None:
    prompts = grammar(CITYSCAPES).prompts(n, seed=seed)
    assert len(set(prompts)) == len(prompts) == n
    assert grammar(CITYSCAPES).prompts(n, seed=seed) == prompts


def test_the_whole_grammar_is_distinct() -> None:
    assert len(set(grammar(CITYSCAPES).prompts(TOTAL, seed=3))) == TOTAL


@pytest.mark.parametrize("n", [-1, TOTAL + 1])
def test_more_than_the_grammar_has(n: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"grammar has {TOTAL} distinct prompts, but {n} were requested; ask for 0 to"
    ):
        grammar(CITYSCAPES).prompts(n, seed=0)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
@pytest.mark.parametrize("slot", [WEATHERS, TIMES, OBJECTS, PLACES])
def test_choices_come_about_equally_often(slot: tuple[str, ...], seed: int) -> None:
    prompts = grammar(CITYSCAPES).prompts(240, seed=seed)
    counts = [sum(choice in prompt for prompt in prompts) for choice in slot]
    even = 240 / len(slot)
    # The golden-ratio walk spreads each slot far better than chance, whose standard deviation is about sqrt(even).
    assert all(abs(count - even) <= even**0.5 + 1 for count in counts)


def test_seeds_give_other_prompts() -> None:
    assert grammar(CITYSCAPES).prompts(5, seed=0) != grammar(CITYSCAPES).prompts(5, seed=1)


def test_sentences_are_understood_by_the_procedural_generator() -> None:
    for prompt in grammar(CITYSCAPES).prompts(200, seed=0):
        wish = read_prompt(prompt)
        assert wish.light is not None, prompt
        assert wish.weather is not None, prompt
        assert wish.layout is not None, prompt
        assert wish.objects, prompt


def test_classes_without_words_are_mentioned_by_name() -> None:
    labels = LabelSpace.from_names(["road", "zebu", "hot-air balloon"])
    prompts = grammar(labels).prompts(240, seed=0)
    for name in ("zebu", "hot-air balloon"):
        assert any(name in prompt for prompt in prompts)
    assert not any("zebu" in prompt for prompt in grammar(CITYSCAPES).prompts(240, seed=0))


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_file_skips_blank_lines_and_comments(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", "# mine\n\n  a road  \r\n\t# note\nä wide street # 5\n")
    assert file(path=path).prompts(2, seed=0) == ["a road", "ä wide street # 5"]


@given(count=st.integers(1, 5), n=st.integers(0, 20), seed=st.integers(0, 9))
def test_prompt_j_is_line_j_modulo_the_number_of_lines(
    tmp_path_factory: pytest.TempPathFactory, count: int, n: int, seed: int
) -> None:
    lines = [f"prompt {number}" for number in range(count)]
    path = write(tmp_path_factory.mktemp("prompts") / "p.txt", "\n".join(lines))
    assert file(path=path).prompts(n, seed=seed) == [lines[j % count] for j in range(n)]


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", b"\xef\xbb\xbfa road\n")
    assert file(path=path).prompts(1, seed=0) == ["a road"]


@pytest.mark.parametrize("text", ["", "\n \n# only a note\n"])
def test_a_file_without_prompts(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"p\.txt: has no prompt; write one per line"):
        file(path=write(tmp_path / "p.txt", text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.txt: no such file; `clouds prompts --n 100 --out"):
        file(path=str(tmp_path / "nowhere.txt"))
    with pytest.raises(ConfigError, match=r"p\.txt: prompts cannot be read as UTF-8 text: .*can't decode"):
        file(path=write(tmp_path / "p.txt", b"caf\xe9\n"))
    with pytest.raises(ConfigError, match="prompts cannot be read"):
        file(path=str(tmp_path))
    with pytest.raises(ConfigError, match="prompts cannot be read"):
        file(path="\0")


def test_fewer_than_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-1 prompts were asked for; ask for 0 or more"):
        file(path=write(tmp_path / "p.txt", "a road")).prompts(-1, seed=0)
