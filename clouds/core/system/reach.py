"""Quick check whether a server is reachable, before clients that retry for most of a minute."""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_DEADLINE = 3.0  # seconds for name look-up and all connections together
_PORTS = {"https": 443, "http": 80}


def unreachable(url: str) -> str | None:
    """Short reason why the server of a URL is unreachable; None if it is reachable.

    If a proxy is configured for the URL, the proxy is tried instead.
    """
    host, port = _endpoint(url)
    answers: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_DEADLINE).close()
            answers.append(None)
        except OSError as error:
            answers.append(str(error))

    asking = Thread(target=connect, daemon=True)  # name look-up has no timeout
    asking.start()
    asking.join(_DEADLINE)
    reason = answers[0] if answers else f"no answer within {_DEADLINE:g} seconds"
    return reason and f"{host} cannot be reached: {reason}"


@contextmanager
def hub_access(refused: str = "") -> Generator[bool]:
    """Within the block, hub clients use only the local cache if the hub is unreachable or must not be contacted.

    This sets the hub's offline mode, which all clients respect: huggingface_hub, open_clip, timm, transformers,
    diffusers. Yields whether only the cache is used.

    Args:
        refused: why the hub must not be contacted; "" allows it.

    Raises:
        ConnectionError: the block needed a file that the cache lacks; the message names the host.
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


def _endpoint(url: str) -> tuple[str, int]:
    """Host and port that a request to the URL connects to, considering proxies."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its chain of causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
