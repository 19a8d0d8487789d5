"""Token ids: bytes, and tokenizers from files."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from clouds.backbones.tokenizers import ByteTokenizer, FileTokenizer, tokenizer_for
from clouds.core.system.errors import WeightsError

TEXT = {"context_length": 16, "vocab_size": 1000, "hf_tokenizer_name": "nobody/nothing"}


@given(st.lists(st.text(max_size=40), max_size=4), st.integers(1, 20))
def test_bytes_are_reversible_up_to_the_length(texts: list[str], length: int) -> None:
    tokens = ByteTokenizer(length, 1000)(texts)
    assert tokens.shape == (len(texts), length)
    for row, text in zip(tokens, texts, strict=True):
        end = int(row.argmax())  # where CLIP's towers look for the end token
        assert bytes(int(token) - 1 for token in row[:end]) == text.encode()[: length - 1]
        assert row[end] == 999
        assert not row[end + 1 :].any()


def test_the_model_says_which_tokenizer_is_its_own() -> None:
    own = tokenizer_for({"context_length": 32}, "hub")
    assert isinstance(own, SimpleTokenizer)
    assert own.context_length == 32
    hub = tokenizer_for({**TEXT, "tokenizer_kwargs": {"clean": "canonicalize"}}, "hub")
    assert isinstance(hub, FileTokenizer)
    assert (hub.source, hub.context_length, hub.options) == ("nobody/nothing", 16, {"clean": "canonicalize"})
    assert isinstance(tokenizer_for(TEXT, "bytes"), ByteTokenizer)


def test_models_and_their_copies_share_what_takes_long_to_read() -> None:
    own = tokenizer_for({"context_length": 32}, "hub")
    assert own is tokenizer_for({"context_length": 32}, "hub")
    assert own is not tokenizer_for({"context_length": 16}, "hub")
    assert deepcopy({"tokenizer": own})["tokenizer"] is own


def test_a_folder_is_read_when_the_first_text_comes(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    later = tokenizer_for(TEXT, folder)
    with pytest.raises(WeightsError, match=r"tokenizer .*tokenizer: no such folder; pass tokenizer=FOLDER"):
        later(["road"])
    write_tokenizer(folder)
    tokens = later(["road sky", "sky"])
    assert tokens.tolist() == [[2, 3] + [0] * 14, [3] + [0] * 15]
    assert tokens.dtype == torch.long


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"tokenizer {tmp_path} could not be loaded \(.*pass tokenizer=FOLDER"):
        tokenizer_for(TEXT, tmp_path)(["road"])


def test_without_a_connection_the_remedy_is_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    match = r"tokenizer nobody/nothing could not be loaded \(OSError: no route to host\); pass tokenizer=FOLDER"
    with pytest.raises(WeightsError, match=match):
        tokenizer_for(TEXT, "hub")(["road"])


def test_stored_takes_what_is_here_and_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("something tried to connect"))
    with pytest.raises(
        WeightsError, match=r"tokenizer nobody/nothing .*tokenizer='stored' asks no server, .*the hub's"
    ):
        tokenizer_for(TEXT, "stored")(["road"])
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    write_tokenizer(tmp_path / "nobody" / "nothing")
    assert tokenizer_for(TEXT, "stored")(["road sky"]).tolist() == [[2, 3] + [0] * 14]
    assert isinstance(tokenizer_for({"context_length": 32}, "stored"), SimpleTokenizer)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<pad>": 0, "<unk>": 1, "road": 2, "sky": 3}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
