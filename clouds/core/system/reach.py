"""Whether a server can be reached: asked once and briefly, before clients that try again for most of a minute."""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_DEADLINE = 3.0  # seconds for the look-up of the name and all connections together
_PORTS = {"https": 443, "http": 80}


def unreachable(url: str) -> str | None:
    """Why no connection to the server of an address can be made, in a few words; None when one can.

    Where a proxy is configured for the address, the connection is to the proxy.
    """
    host, port = _door(url)
    answers: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_DEADLINE).close()
            answers.append(None)
        except OSError as error:
            answers.append(str(error))

    asking = Thread(target=connect, daemon=True)  # the system's look-up of names cannot be given a limit
    asking.start()
    asking.join(_DEADLINE)
    reason = answers[0] if answers else f"no answer within {_DEADLINE:g} seconds"
    return reason and f"{host} cannot be reached: {reason}"


@contextmanager
def hub_access(refused: str = "") -> Generator[bool]:
    """For the block, clients of the hub take what its cache has where the hub cannot be reached, or must not be.

    Its offline mode is the one switch that all of them heed: huggingface_hub, open_clip, timm, transformers, diffusers.
    The block gets whether the cache is all there is, for a client that says more than one line about it.

    Args:
        refused: why the hub must not be asked; "" lets it.

    Raises:
        ConnectionError: the block wanted a file that the cache does not have; the message names the host.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    offline = "offline mode is on (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    reason = refused or offline or unreachable(constants.ENDPOINT)
    if reason is None:
        yield False
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield True
    except Exception as error:
        if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in _causes(error)):
            raise ConnectionError(f"{reason}, and the hub's cache does not have it") from error
        raise
    finally:
        constants.HF_HUB_OFFLINE = before


def _door(url: str) -> tuple[str, int]:
    """Host and port that a request to the address connects to."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
