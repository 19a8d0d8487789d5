import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def unsynced() -> Iterator[None]:
    """Files need not survive a power failure here, and waiting for a busy disk takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
