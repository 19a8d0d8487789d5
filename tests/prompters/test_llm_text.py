"""Captions out of answers as language models write them."""

from __future__ import annotations

import json
import re
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.prompters import llm_text
from clouds.prompters.llm_text import caption_key, first_sentence, parse_captions

ROAD, TRAM, FOG = "A photo of a busy road at night.", "A tram passes a church in the rain", "A snapshot of cars in fog."
ALL = [ROAD, TRAM, FOG]

FORMS = {
    "numbers": f"1. {ROAD}\n2. {TRAM}\n3. {FOG}",
    "brackets": f"1) {ROAD}\n(2) {TRAM}\n[3] {FOG}",
    "colons": f"1: {ROAD}\n2:{TRAM}\n3 : {FOG}",
    "bullets": f"- {ROAD}\n* {TRAM}\n• {FOG}",
    "both": f"- 1. {ROAD}\n- 2. {TRAM}\n- 3. {FOG}",
    "bold numbers": f"**1.** {ROAD}\n**2.** {TRAM}\n**3**. {FOG}",
    "bold": f"1. **{ROAD}**\n2. __{TRAM}__\n3. *{FOG}*",
    "emphasis": "1. A photo of a *busy* road at **night**.\n2. A `tram` passes a church in the rain\n3. " + FOG,
    "titles": f"1. **Night:** {ROAD}\n2. **Tram** - {TRAM}\n**3. Some fog:** {FOG}",
    "headings": f"## Night\n1. {ROAD}\n\n### Rain\n2. {TRAM}\n**Fog:**\n3. {FOG}",
    "quotes": f"\"{ROAD}\"\n'{TRAM}'\n“{FOG}”",
    "numbers and quotes": f'1. "{ROAD}"\n2. «{TRAM}»,\n3. "{FOG}"',
    "words": f"Caption 1: {ROAD}\nPrompt #2: {TRAM}\nsentence 3. {FOG}",
    "preamble": f"Sure! Here are 3 captions of street scenes:\n\n1. {ROAD}\n2. {TRAM}\n3. {FOG}\n\nI hope they help!",
    "talk without marks": f"Sure, here you go:\n{ROAD}\n{TRAM}\n{FOG}\nLet me know if you need more of these.",
    "plain": f"{ROAD}\n\n{TRAM}\n\n{FOG}\n",
    "windows": f"1. {ROAD}\r\n2. {TRAM}\r\n3. {FOG}\r\n",
    "wrapped": f"1. A photo of a busy\n   road at night.\n2. {TRAM}\n3. {FOG}\nThese are all that I have for you.",
    "json": json.dumps(ALL),
    "fenced json": f"Here is the list:\n```json\n{json.dumps(ALL, indent=2)}\n```\nAnything else that you want?",
    "json of records": json.dumps({"captions": [{"id": 1, "caption": text, "time": "night"} for text in ALL]}),
    "cut json": json.dumps(ALL, indent=2)[:-2] + ",",
    "fence": f"```\n1. {ROAD}\n2. {TRAM}\n3. {FOG}\n```",
    "quoted block": f"> 1. {ROAD}\n> 2. {TRAM}\n> 3. {FOG}",
    "thoughts": f"<think>\n1. I should vary the weather\n</think>\n1. {ROAD}\n2. {TRAM}\n3. {FOG}",
    "thoughts that the template began": f"1. Vary the weather\n</think>\n1. {ROAD}\n2. {TRAM}\n3. {FOG}",
    "thoughts without end": f"1. {ROAD}\n2. {TRAM}\n3. {FOG}\n<think>\n4. I could write one more here",
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_lists_of_every_form_are_read(text: str) -> None:
    assert parse_captions(text) == ALL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n \n",
        "Sure! Here are the captions:",
        "I'm sorry, I can't help with that request.",
        "1.\n2.\n3.",
        "- **Night:**\n- Rain",
        "1. Road\n2. Two cars",
        "---\n```\n| a | b | c |",
        "[]",
        "{}",
        "[1, 2, 3]",
        "1. " + "word " * 61,
        "<think>1. A photo of a road at night",
        "1. 2024 2025 2026 2027",
    ],
)
def test_what_is_no_caption_is_left_out(text: str) -> None:
    assert parse_captions(text) == []


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("A photo of a road. It is wet.", "A photo of a road."),
        ('1. "A photo of a road." I hope this helps!', "A photo of a road."),
        ("Sure:\n- A road at 7.5 metres\n- Another wide road", "A road at 7.5 metres"),
        ("no", ""),
        ("", ""),
    ],
)
def test_the_first_sentence_is_found(text: str, first: str) -> None:
    assert first_sentence(text) == first


@pytest.mark.parametrize(
    "text", ["1. A photo of a road" + "!" * 500, "1. A photo of a \x1b[31mred road", "a wide\x00 road"]
)
def test_captions_are_short_and_printable(text: str) -> None:
    assert parse_captions(text) == []


def test_numbers_that_belong_to_a_caption_stay() -> None:
    text = "24 cars wait at a light.\n7.5 metres of wet road\n1990s cars on a highway, seen from above"
    assert parse_captions(text) == text.splitlines()


@given(st.text())
def test_captions_are_lines_with_words(text: str) -> None:
    for caption in parse_captions(text):
        assert len(caption.splitlines()) == 1
        assert caption == caption.strip()
        assert caption_key(caption)


sentences = st.lists(st.sampled_from(["road", "car", "tram", "fog", "rain", "night"]), min_size=3, max_size=9)


@given(
    st.lists(sentences, min_size=1, max_size=9), st.sampled_from(["{n}. {c}", "- {c}", '{n}) "{c}"', "**{n}.** {c},"])
)
def test_lists_come_back_as_they_are(words: list[list[str]], form: str) -> None:
    captions = [f"A {' '.join(caption)}." for caption in words]
    text = "\n".join(form.format(n=number, c=caption) for number, caption in enumerate(captions, start=1))
    assert parse_captions(f"Here they are:\n\n{text}\n\nAnything else?") == captions


@given(sentences, st.sampled_from([".", "", "!", " .", ","]))
def test_keys_do_not_depend_on_case_and_punctuation(words: list[str], end: str) -> None:
    assert caption_key(" ".join(words)) == caption_key("  ".join(words).upper() + end) == caption_key(", ".join(words))


# -- the work grows with the length alone ------------------------------------------------------------------------------

UNITS = [
    *(
        "[",
        "{",
        '"',
        "“",
        "- ",
        "1. ",
        "**",
        'a"',
        "`a`",
        "*a ",
        "1. **",
        "> ",
        "# ",
        "_a",
        "[{",
        " ",
        "a ",
        ": ",
        "**a",
    ),
    *("a:", "- a b c\n", "- a b c\n d\n", "1. a b c\n\t", '["a b c"],', '"a b c"\n', "\n", "(1) ", "caption 1. ", "\\"),
]


def work(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Lines of Python that the parser runs, and characters of the texts that it makes or hands to patterns."""
    count = 0
    seen: dict[tuple[FrameType, str], int] = {}

    class Counted:
        def __init__(self, pattern: re.Pattern[str]) -> None:
            self.pattern = pattern

        def match(self, text: str, begin: int = 0) -> re.Match[str] | None:
            nonlocal count
            found = self.pattern.match(text, begin)
            count += found.end() - begin if found else 1
            return found

        def sub(self, new: str, text: str) -> str:
            nonlocal count
            count += len(text)
            return self.pattern.sub(new, text)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != llm_text.__file__:
            return None
        count += 1
        for name, value in frame.f_locals.items():
            if isinstance(value, str) and seen.get((frame, name)) != id(value):
                seen[frame, name] = id(value)
                count += len(value)
        return trace

    for name in ("_MARKER", "_TITLE", "_EMPHASIS", "_TALK"):
        monkeypatch.setattr(llm_text, name, Counted(getattr(llm_text, name)))
    before = sys.gettrace()
    sys.settrace(trace)
    llm_text.parse_captions(text)
    sys.settrace(before)
    monkeypatch.undo()
    return count


@pytest.mark.parametrize("unit", UNITS)
def test_the_work_grows_with_the_length_alone(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the text is at most about four times the work; what is quadratic takes sixteen times as much."""
    small, large = (work(unit * count, monkeypatch) for count in (250, 1000))
    assert large <= 5 * small + 1000


def test_deep_lists_are_read_and_deeper_ones_are_text() -> None:
    deep = 200
    assert parse_captions("[" * deep + json.dumps(ROAD) + "]" * deep) == [ROAD]
    assert parse_captions("[" * 100_000) == []
    assert parse_captions("[" * 100_000 + f"\n1. {ROAD}\n" + "]" * 100_000) == [ROAD]


def test_quotes_around_quotes_are_taken_off() -> None:
    assert parse_captions('"' * 3 + ROAD + '"' * 3) == [ROAD]
