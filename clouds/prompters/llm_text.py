"""Extract captions from a language model's answer, with lists of any form and other text around them."""

from __future__ import annotations

import re
from typing import Any

from clouds.core.system.config import parse_json

_LEAST_WORDS, _MOST_WORDS, _MOST_LETTERS = 3, 60, 500
_MOST_QUOTES = 8  # around each other
_MARKER = re.compile(
    r"""
      [-*+•‣◦–—·]\s+                                                  # bullets
    | \#{0,6}\s*(?:\*\*|__)?                                          # 1.  1)  (1)  [1]  **1.**
      (?:\(?\d{1,4}(?:\*\*|__)?\s*[.):]|\[\d{1,4}\])(?!\d)(?:\*\*|__)?\s*
    | (?:caption|prompt|sentence)\s*\#?\d{1,4}\s*[.):-]+\s*
    """,
    re.VERBOSE | re.IGNORECASE,
)
_TITLE = re.compile(r"^(?:\*\*|__)?[^*_]{1,60}?(?::(?:\*\*|__)|(?:\*\*|__)\s*[:–—-])\s*")  # **Rainy night:** A photo
_EMPHASIS = re.compile(r"\*\*|__|`|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
_QUOTES = "\"'“”„‟‘’«»‹›"
_SENTENCE_END = re.compile(rf"(?<=[.!?])[{_QUOTES}]*\s")
_TALK = re.compile(
    r"(?:sure|certainly|of course|okay|ok|(?:here|below|these|following) (?:are|is|captions|prompts|sentences|you)"
    r"|the following|i|i['’]m|let me|note|please|feel free|hope|sorry|unfortunately|as an? (?:ai|language|large))\b",
    re.IGNORECASE,
)


def parse_captions(text: str) -> list[str]:
    """The captions in an answer, in order, each on one line; repetitions are kept.

    It reads numbered and bulleted lists, JSON lists, quoted lines and plain lines, with or without markdown. If some
    lines have a marker (a number, a bullet, quotes), unmarked lines are dropped, and indented ones continue the line
    before. Talk, headings, code fences, the model's thoughts, lines of fewer than 3 or more than 60 words, of more than
    500 characters, or with control characters are left out. The work is linear in the length of the text.

    >>> parse_captions('Sure! Here are two:\\n1. "A photo of a **busy** road."\\n2) A tram at night')
    ['A photo of a busy road.', 'A tram at night']
    """
    text = _without_thoughts(text)
    cleaned = [_clean(line) for line in _json_strings(text) or _listed(text.splitlines())]
    return [line for line in cleaned if _is_caption(line)]


def first_sentence(text: str) -> str:
    """The first sentence of the first caption in an answer; "" if there is none.

    >>> first_sentence("A photo of a road at night. It is dark.")
    'A photo of a road at night.'
    """
    captions = parse_captions(text)
    return _SENTENCE_END.split(captions[0], maxsplit=1)[0].strip(_QUOTES) if captions else ""


def caption_key(caption: str) -> str:
    """A key that ignores case, punctuation and spaces.

    >>> caption_key("A busy road, at night.") == caption_key("a Busy road at night")
    True
    """
    return " ".join(re.findall(r"\w+", caption.casefold()))


def _without_thoughts(text: str) -> str:
    """Remove a model's thoughts before its answer; some chat templates already contain the opening tag."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def _json_strings(text: str) -> list[str] | None:
    """All strings of a JSON list or object, or None if the answer has none."""
    first = re.search(r"[\[{]", text)
    last = max(text.rfind("]"), text.rfind("}"))
    try:
        return _strings(parse_json(text[first.start() : last + 1])) or None if first else None
    except ValueError:
        return None


def _strings(value: Any) -> list[str]:
    """All strings in nested JSON values, in order."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, (dict, list)):
            waiting += reversed(list(item.values()) if isinstance(item, dict) else item)
    return found


def _listed(lines: list[str]) -> list[str]:
    """Marked lines with their continuations; all lines if none is marked."""
    marked: list[list[str]] = []
    plain: list[str] = []
    continues = False
    for line in lines:
        stripped = line.strip().removeprefix(">").strip()
        begin = 0
        while found := _MARKER.match(stripped, begin):
            begin = found.end()
        body = stripped[begin:]
        if begin or _is_quoted(body):
            marked.append([body])
            continues = True
        elif body and continues and line[:1].isspace():
            marked[-1].append(body)
        else:
            plain.append(body)
            continues = False
    return [" ".join(lines) for lines in marked] or plain


def _is_quoted(line: str) -> bool:
    end = line.rstrip(",.;")
    return len(end) > 1 and end[0] in _QUOTES and end[-1] in _QUOTES


def _clean(line: str) -> str:
    """Remove titles, emphasis, enclosing quotes, and a trailing comma."""
    line = _EMPHASIS.sub("", _TITLE.sub("", line.strip()))
    line = " ".join(line.split()).rstrip(",;").strip()
    for _ in range(_MOST_QUOTES):
        if not _is_quoted(line):
            break
        line = line[1:].rstrip(".").rstrip(_QUOTES).strip() if line.endswith(".") else line[1:-1].strip()
    return line


def _is_caption(line: str) -> bool:
    words = re.findall(r"\w+", line)
    return (
        _LEAST_WORDS <= len(words) <= _MOST_WORDS
        and len(line) <= _MOST_LETTERS
        and line.isprintable()
        and any(letter.isalpha() for letter in line)
        and not line.endswith(":")
        and not line.startswith(("#", "```", "|", "---"))
        and not _TALK.match(line)
    )
