"""What the fuzzers do to an input that is right: to its bytes, and to the structure that the bytes have.

Every function takes a random generator, so that an input is known by its seed and number.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

_NUMBERS = (0, 1, -1, 2, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30, 10**4400)
_FLOATS = (0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"), float("-inf"))
_STRINGS = ("", " ", "x", "\0", "\n", "\x1b[31m", "..", "../x", "/etc/passwd", "a" * 5000, "💥", "\ud800", "é", "é")
_BYTES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\n",
    b'"',
    b"[",
    b"{",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
)
_DEEP = 100_000
_LOOKED_AT = 20_000  # characters in which a token is replaced


def mutate_bytes(content: bytes, rng: Random) -> bytes:
    """One to four changes at random places."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 1, 2, 4, 16, 64)), len(changed) - at)
        match rng.randrange(7):
            case 0 if length:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                piece = rng.choice(_BYTES)
                changed[at : at + len(piece)] = piece
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50))
            case 4:
                changed[at:at] = rng.randbytes(rng.choice((1, 4, 30)))
            case 5 if rng.random() < 0.3:
                del changed[at:]
            case 6:
                other = rng.randrange(len(changed) + 1)
                changed[at : at + length] = changed[other : other + length]
    return bytes(changed)


def mutate_text(content: bytes, rng: Random) -> bytes:
    """Numbers, words and strings are replaced, lines repeated, moved and left out; sometimes bytes are changed."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    text = content.decode(errors="replace")
    for _ in range(rng.randint(1, 3)):
        tokens = list(re.finditer(r"\"[^\"\n]*\"|[\w.+-]+|[^\w\s]", text[:_LOOKED_AT]))
        if rng.random() < 0.25 or not tokens:
            text = _move_lines(text, rng)
            continue
        token = rng.choice(tokens)
        text = text[: token.start()] + _token(rng, [one.group() for one in tokens]) + text[token.end() :]
    return text.encode(errors="surrogatepass")


def _token(rng: Random, others: Sequence[str]) -> str:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(others)
    if kind == 1:
        return "[" * (depth := rng.choice((1, 3, _DEEP))) + "]" * depth
    if kind == 2:
        return rng.choice(
            ("", "=", "[", "]", "{", "}", ",", ".", ":", "true", "nan", "-inf", "1979-05-27", "{a.b = 1}")
        )
    return _json(_value(rng))


def _move_lines(text: str, rng: Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    line = rng.choice(lines)
    if rng.random() < 0.5:
        lines.remove(line)
    if rng.random() < 0.7:
        lines[rng.randrange(len(lines) + 1) : 0] = [line] * (rng.choice((1, 1, 100)) if len(line) < 1000 else 1)
    return "".join(lines)


def _value(rng: Random) -> Any:
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(_NUMBERS)
    if kind < 5:
        return rng.choice(_STRINGS)
    return rng.choice((*_FLOATS, None, True, False, [], {}, [[]], {"": 0}, [0] * 300, {"name": "tiny"}))


def _json(value: Any) -> str:
    """JSON of any value; Python itself refuses to write numbers of more than 4300 digits."""
    if isinstance(value, int) and value > 2**64:
        return "1" + "0" * (30 if value == 10**30 else 4400)
    return json.dumps(value, ensure_ascii=False)


def mutate_json(content: bytes, rng: Random) -> bytes:
    """One to three values or keys of a document are replaced, left out, or taken from elsewhere in it."""
    if rng.random() < 0.25:
        return mutate_text(content, rng)
    document = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(document))
        if not places:
            break
        holder, key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice((*_STRINGS, "name", "version"))] = holder.pop(key)
            case 2:
                other, name = rng.choice(places)
                holder[key] = json.loads(json.dumps(other[name])) if _has(other, name) else None
            case _:
                holder[key] = _SHORT.get(value, value) if isinstance(value := _value(rng), int) else value
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    return text.encode(errors="surrogatepass")


_SHORT = {10**4400: 10**400}  # which Python writes


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def mutate_lines(content: bytes, rng: Random) -> bytes:
    """One line of a file of JSON lines."""
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng) + rng.choice((b"\n", b"\n", b""))
    return b"".join(lines)


def mutate_png(content: bytes, rng: Random) -> bytes:
    """A PNG whose chunks were changed and then given checksums that are right; other formats by their bytes."""
    if not content.startswith(b"\x89PNG") or rng.random() < 0.3:
        return mutate_bytes(content, rng)
    chunks = _chunks(content)
    at = rng.randrange(len(chunks))
    kind, data = chunks[at]
    match rng.randrange(4):
        case 0 if kind == b"IDAT":
            chunks[at] = (kind, zlib.compress(mutate_bytes(zlib.decompress(data), rng)))
        case 1:
            chunks.insert(
                rng.randrange(len(chunks) + 1), (rng.choice((kind, b"tRNS", b"PLTE", b"eXIf", b"zTXt")), data)
            )
        case 2:
            del chunks[at]
        case _:
            chunks[at] = (kind, mutate_bytes(data, rng))
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def mutate_zip(content: bytes, rng: Random) -> bytes:
    """One member of an archive, which is then packed again; other formats by their bytes."""
    if not content.startswith(b"PK") or rng.random() < 0.3:
        return mutate_bytes(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in members if name.endswith("data.pkl")]
    name = rng.choice(pickles if rng.random() < 0.7 else list(members))
    members[name] = mutate_bytes(members[name], rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return packed.getvalue()


def mutate_safetensors(content: bytes, rng: Random) -> bytes:
    """The header as JSON, with its length set right; sometimes bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    (length,) = struct.unpack_from("<Q", content)
    header = mutate_json(content[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]
