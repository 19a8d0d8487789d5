"""The page of `clouds serve`: one or two pipelines to try on pictures. Built with gradio, which is imported inside."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from clouds.core.system.errors import CloudsError, ConfigError, DataError
from clouds.inference.gate import Gate
from clouds.inference.trial import (
    MAX_WORDS,
    Limits,
    Model,
    best_instances,
    confidence_picture,
    differences,
    read_picture,
    read_words,
)

UPLOAD_BYTES = 64 * 2**20
_WAITING = 8  # pictures of all visitors
_KEPT = (600, 3600)  # files are looked through every 10 minutes, and deleted after an hour
_LETTERS = 4000  # of the classes in words
_BUTTONS = ("download", "fullscreen")
_OWN = ("localhost", "127.0.0.1", "::1")


@contextmanager
def open_page(models: Sequence[Model], limits: Limits, *, host: str, port: int) -> Generator[str]:
    """Serve the page of one or two models within the block, and yield its address. Pictures are deleted at the end.

    Args:
        models: what each picture is given to.
        limits: for each picture and model.
        host: address to listen at.
        port: 0 takes a free one.

    Raises:
        ConfigError: gradio is not installed, or the port cannot be used.
    """
    gradio = import_gradio()
    number = _free_port(host, port)
    with TemporaryDirectory(prefix="clouds-serve-") as temporary, _settings(folder := Path(temporary).resolve(), host):
        page = _build(gradio, models, limits)
        page.queue(max_size=_WAITING, default_concurrency_limit=1)
        try:
            _, address, _ = page.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=number,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=UPLOAD_BYTES,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                app_kwargs={"middleware": _middleware(host, folder)},
            )
            yield address
        finally:
            page.close(verbose=False)


def import_gradio() -> Any:
    """The library of the page. Raises `ConfigError` with the pip command if it is not installed."""
    try:
        import gradio
    except ModuleNotFoundError:
        raise ConfigError(
            "clouds serve needs gradio, which is not installed: pip install 'clouds-dgss[serve]'"
        ) from None
    return gradio


def is_local(host: str) -> bool:
    """Whether only this machine reaches the address."""
    return host in _OWN


def _middleware(host: str, folder: Path) -> list[Any]:
    """A gate, and for addresses of this machine a check that no other site's name leads to it (DNS rebinding)."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    names = [*_OWN, "[::1]"] if is_local(host) else ["*"]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(Gate, folder=folder)]


def _free_port(host: str, port: int) -> int:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
            return one.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--host {host} --port {port}: cannot be used ({error}); choose another; 0 takes a free port"
        ) from error


@contextmanager
def _settings(folder: Path, host: str) -> Generator[None]:
    """Let the library write to `folder` and reach the page without a proxy; its own variables are hidden meanwhile."""
    former = dict(os.environ)
    for name in [name for name in former if name.startswith("GRADIO_")]:
        del os.environ[name]
    direct = ",".join(filter(None, (former.get("NO_PROXY", former.get("no_proxy", "")), host, "localhost")))
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    os.environ |= {"NO_PROXY": direct, "no_proxy": direct}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= former


def _build(gradio: Any, models: Sequence[Model], limits: Limits) -> Any:
    """The page: a picture and words at the left, the answers of each model at the right."""
    with gradio.Blocks(title="clouds serve", analytics_enabled=False, delete_cache=_KEPT) as page:
        # Names may be a stranger's: as Markdown they could show pictures of other sites.
        gradio.HTML(f"<h1>Try a model</h1><ul>{''.join(map(summary, models))}</ul>")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                picture = gradio.Image(type="filepath", image_mode=None, label="Picture", buttons=[], height=320)
                words = gradio.Textbox(
                    label="Classes in words",
                    info=f"Separated by commas, at most {MAX_WORDS}. Empty: the model's own classes.",
                    placeholder="road, deer, sky",
                    max_length=_LETTERS,
                    visible=any(one.takes_words for one in models),
                )
                button = gradio.Button("Segment", variant="primary")
                status = gradio.Markdown()
                difference = gradio.Image(
                    label="Where the models differ",
                    format="png",
                    visible=len(models) > 1,
                    buttons=list(_BUTTONS),
                    alt_text="The darkened picture; yellow pixels have different classes",
                )
            outputs = [_answers(gradio, one) for one in models]
        gradio.on(
            [button.click, words.submit],
            _Segment(gradio, models, limits),
            inputs=[picture, words],
            outputs=[status, difference, *(one for column in outputs for one in column)],
            preprocess=False,  # the library would decode pictures of any size
            api_visibility="private",
            concurrency_limit=1,
        )
    return page


def summary(model: Model) -> str:
    """An item of a list in HTML: the model's name and classes."""
    space = model.pipeline.labels
    words = ", or your own in words" if model.takes_words else ""
    untrained = "" if model.pipeline.trained else "; <strong>not trained: its predictions mean nothing</strong>"
    name, classes = escape(model.name), escape(space.name)
    return f"<li><strong>{name}</strong>: {len(space)} classes ({classes}){words}{untrained}</li>"


def _answers(gradio: Any, model: Model) -> list[Any]:
    """The outputs of one model: overlay, table of classes, instances, confidence."""
    with gradio.Column(scale=2, min_width=320):
        gradio.HTML(f"<h2>{escape(model.name)}</h2>")
        return [
            gradio.Image(
                label="Overlay", format="png", buttons=list(_BUTTONS), alt_text="The picture in the classes' colours"
            ),
            gradio.HTML(label="Classes"),
            gradio.AnnotatedImage(label="Instances", format="png", visible=model.pipeline.head.instances),
            gradio.Image(
                label="Confidence (white is certain)",
                format="png",
                buttons=list(_BUTTONS),
                alt_text="Confidence: white is certain",
            ),
        ]


class _Segment:
    """Answers a visitor."""

    def __init__(self, gradio: Any, models: Sequence[Model], limits: Limits) -> None:
        self._gradio, self._models, self._limits = gradio, models, limits

    def __call__(self, picture: Any, words: str | None) -> list[Any]:
        try:
            return self._answer(picture, words or "")
        except CloudsError as error:
            raise self._gradio.Error(escape(str(error)), duration=None, print_exception=False) from None

    def _answer(self, picture: Any, words: str) -> list[Any]:
        if picture is None:
            raise DataError("no picture; upload one, take one with the camera, or paste one")
        started, classes = perf_counter(), read_words(words)
        pixels = read_picture(Path(picture["path"]), self._limits)
        found = [one.segment(pixels, classes, self._limits) for one in self._models]
        outputs: list[Any] = []
        for model, one in zip(self._models, found, strict=True):
            shares, table = confidence_picture(one)
            masks = (one.image, best_instances(one)) if model.pipeline.head.instances else None
            outputs += [np.asarray(one.overlay()), table, masks, shares]
        text, difference = f"{pixels.shape[1]} x {pixels.shape[0]} pixels, {perf_counter() - started:.1f} s", None
        if len(found) > 1:
            difference, share = differences(*found)
            text += f"; the models differ at {share:.1%} of the pixels"
        return [text, difference, *outputs]
