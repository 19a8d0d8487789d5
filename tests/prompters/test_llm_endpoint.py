"""Language models behind an address: a server on this machine that speaks the protocol, well and badly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError

import pytest
from attrs import define, field

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import ConfigError
from clouds.prompters.chat_models import Endpoint
from clouds.prompters.presets import llm

KEY = "sk-very-secret"
LABELS = LabelSpace.from_names(["road"])


def reply(text: str, finish: str = "stop") -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]})


@define
class Chat:
    """What the server answers, and what it was asked.

    Attributes:
        body, code: of the next answers.
        location: where it sends on to.
        asked: bodies and headers of the requests.
        gone: ends the wait of `code` 0, which never answers.
        pause: seconds between two bytes; 0 sends all at once.
        sent: bytes of bodies so far.
    """

    body: str = ""
    code: int = 200
    location: str | None = None
    asked: list[tuple[str, dict[str, Any], dict[str, str]]] = field(factory=list)
    gone: Event = field(factory=Event)
    url: str = ""
    pause: float = 0.0
    sent: int = 0


@pytest.fixture
def chat() -> Iterator[Chat]:
    state = Chat()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, body, dict(self.headers)))
            if state.code == 0:
                state.gone.wait(30)
                return
            self.send_response(state.code)
            if state.location:
                self.send_header("Location", state.location)
            self.send_header("Content-Length", str(len(state.body.encode())))
            self.end_headers()
            for part in [state.body.encode()] if not state.pause else (bytes([byte]) for byte in state.body.encode()):
                try:
                    self.wfile.write(part)
                except OSError:  # the client has gone
                    return
                state.sent += len(part)
                state.gone.wait(state.pause)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield state
        state.gone.set()
        server.shutdown()
        thread.join()


def test_prompts_come_from_a_server(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    chat.body = reply("1. A photo of a road.\n2. A road at night")
    prompter = llm(
        LABELS, model="some-model", url=chat.url, key_variable="MY_KEY", batch=25, temperature=0.5, max_tokens=99
    )
    assert prompter.prompts(2, seed=3) == ["A photo of a road.", "A road at night"]
    [(path, body, headers)] = chat.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("some-model", 0.5, 99)
    assert isinstance(body["seed"], int)
    assert "Write 2 different captions" in body["messages"][0]["content"]
    assert KEY not in repr(Endpoint(url=chat.url, name="m", key=KEY))


def test_single_captions_come_from_a_server(chat: Chat) -> None:
    chat.body = reply("A road in the rain, snow, sun, fog and clouds, by day and night, at dusk.")
    [prompt] = llm(LABELS, model="m", url=chat.url, rounds=1).write(1, seed=0)
    assert prompt.origin == {"by": "grammar", "questions": 1}
    [(_, body, _)] = chat.asked
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert body["messages"][-1]["content"] == prompt.text
    assert body["max_tokens"] == 64


def test_without_a_key_none_is_sent(chat: Chat) -> None:
    chat.body = reply("hello")
    assert Endpoint(url=f"{chat.url}/", name="m").answer("hi", seed=0) == "hello"
    assert chat.asked[0][0] == "/v1/chat/completions"
    assert "Authorization" not in chat.asked[0][2]


def test_a_cut_answer_loses_its_last_line(chat: Chat) -> None:
    chat.body = reply("1. whole\n2. wh", "length")
    assert Endpoint(url=chat.url, name="m").answer("hi", seed=0) == "1. whole"


@pytest.mark.parametrize(
    ("code", "body", "match"),
    [
        (401, "no such key", r"chat/completions: answered 401 .*: no such key; key_variable= names the environment"),
        (404, '{"error": "model m\\nis not loaded"}', r"answered 404 Not Found: \{\"error\": \"model m"),
        (500, "oops " * 1000, r"answered 500 .*: (oops ){59}oops$"),
        (200, "<html>", r"not a chat-completions answer, because choices.* is not text: '<html>'"),
        (200, '{"choices": []}', r"choices\[0\]\.message\.content is not text: '\{\"choices\": \[\]\}'"),
        (200, '{"choices": [{"message": {"content": null}}]}', "is not text"),
        (200, "[]", "is not text"),
    ],
)
def test_faults_of_the_server_are_named(chat: Chat, code: int, body: str, match: str) -> None:
    chat.code, chat.body = code, body
    with pytest.raises(ConfigError, match=match):
        Endpoint(url=chat.url, name="m", key=KEY).answer("hi", seed=0)


def test_the_key_goes_to_no_other_address(chat: Chat) -> None:
    """A server that sends on gets no second request with the key; `localhost` is another host than 127.0.0.1."""
    chat.code, chat.location = 307, chat.url.replace("127.0.0.1", "localhost") + "/elsewhere"
    with pytest.raises(ConfigError, match="answered 307"):
        Endpoint(url=chat.url, name="m", key=KEY).answer("hi", seed=0)
    assert len(chat.asked) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", ["{url}/elsewhere", "file:///etc/passwd", "/v1/chat/completions", "\x1b[2J"])
def test_a_question_is_not_sent_on(chat: Chat, code: int, place: str) -> None:
    """The answer to another request is none; what is shown of the address cannot steer a terminal."""
    chat.code, chat.location = code, place.format(url=chat.url)
    with pytest.raises(
        ConfigError, match=rf"answered {code} .*; redirects are not followed; if '.*' is right, give it as url="
    ):
        Endpoint(url=chat.url, name="m", key=KEY).answer("hi", seed=0)
    assert len(chat.asked) == 1


@pytest.mark.parametrize("code", [200, 500])
def test_an_answer_that_comes_byte_by_byte_has_no_more_time(chat: Chat, code: int) -> None:
    """Each byte comes within the time of one read; the answer as a whole does not."""
    chat.code, chat.body, chat.pause = code, " " * 10_000, 0.05
    match = rf"answered {code}" if code == 500 else r"no answer \(TimeoutError: incomplete after 0\.3 seconds\)"
    with pytest.raises(ConfigError, match=match):
        Endpoint(url=chat.url, name="m", timeout=0.3).answer("hi", seed=0)
    assert chat.sent < 1000


@pytest.mark.parametrize("body", ["[" * 100_000, '{"choices":' * 100_000, '{"choices": ' + "9" * 10_000 + "}"])
def test_json_that_cannot_be_read_is_one_line(chat: Chat, body: str) -> None:
    chat.body = body
    with pytest.raises(ConfigError, match=r"not a chat-completions answer.* is not text: '.{300}'$"):
        Endpoint(url=chat.url, name="m").answer("hi", seed=0)


def test_an_answer_is_text_that_can_be_written(chat: Chat) -> None:
    chat.body = json.dumps({"choices": [{"message": {"content": "a \ud800 tram"}}]})
    assert Endpoint(url=chat.url, name="m").answer("hi", seed=0) == "a ? tram"


def test_control_characters_of_a_refusal_are_escaped(chat: Chat) -> None:
    chat.code, chat.body = 500, "\x1b[2J\x1b]0;owned\x07 boo"
    with pytest.raises(ConfigError, match=r"answered 500 .*: \\x1b\[2J\\x1b\]0;owned\\x07 boo$"):
        Endpoint(url=chat.url, name="m").answer("hi", seed=0)


def test_a_server_that_does_not_answer(chat: Chat) -> None:
    chat.code = 0
    with pytest.raises(
        ConfigError, match=r"no answer \(TimeoutError: (timed out|incomplete .*)\); is the server .* timeout=0\.2 sec"
    ):
        Endpoint(url=chat.url, name="m", timeout=0.2).answer("hi", seed=0)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9/v1/chat/completions: no answer .*refused"):
        Endpoint(url="http://127.0.0.1:9/v1", name="m").answer("hi", seed=0)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "ftp://host/v1", "http://", ""])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"prompter llm: url=.*; expected http://HOST/PATH or https://HOST/PATH"):
        Endpoint(url=url, name="m")


@pytest.mark.parametrize(
    "url", ["http://me:sk-very-secret@host/v1", "http://sk-very-secret@host/v1", "http://host/v1?key=sk-very-secret"]
)
def test_a_secret_in_an_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"url has a user, a query or.* that key_variable= names") as caught:
        Endpoint(url=url, name="m")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["http://[::1", "http://host:sk-very-secret", "http://host:99999"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="url has an invalid host or port; expected http://HOST:PORT/PATH") as caught:
        Endpoint(url=url, name="m")
    assert KEY not in str(caught.value)


def test_a_refusal_that_breaks_off(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: HTTPError, *args: object) -> bytes:
        raise IncompleteRead(b"")

    monkeypatch.setattr(HTTPError, "read", broken, raising=False)
    chat.code = 500
    with pytest.raises(ConfigError, match=r"answered 500 .*: its text is incomplete \(IncompleteRead\)"):
        Endpoint(url=chat.url, name="m").answer("hi", seed=0)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_the_timeout_is_positive(timeout: float) -> None:
    with pytest.raises(ConfigError, match="expected more than 0 seconds"):
        Endpoint(url="http://host", name="m", timeout=timeout)


def test_a_key_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match="key_variable=MY_KEY, but the environment variable MY_KEY is not set"):
        llm(LABELS, model="m", url="http://host", key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(ConfigError, match="the key in MY_KEY has characters that HTTP cannot send") as caught:
        llm(LABELS, model="m", url="http://host", key_variable="MY_KEY")
    assert KEY not in str(caught.value)
