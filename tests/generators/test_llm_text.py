"""Captions out of answers as language models write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.generators.llm_text import caption_key, parse_captions

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
