"""`clouds serve`. Heavy imports are inside functions."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from clouds.cli.options import Device, MaxPixels, Trust
from clouds.cli.output import write, write_notes

_PAUSE = 0.2  # seconds between looks at signals


def serve(
    checkpoint: Path,
    other: Path | None = None,
    /,
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 7860,
    side: Annotated[int, Parameter(validator=Number(gte=32))] = 2048,
    seconds: Annotated[float, Parameter(validator=Number(gt=0))] = 60.0,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    trust: Trust = (),
) -> None:
    """Serve a page to try a model on pictures, or to compare two, until Ctrl-C.

    The page shows overlay, classes, instances and confidence; for an open-vocabulary head, classes can be chosen in
    words. Nothing leaves the machine.

    Args:
        checkpoint: folder of a saved pipeline; or owner/name[@revision] of the hub.
        other: another one, to compare.
        host: address to listen at. At any but this machine's own, everybody who reaches it can use the page.
        port: port to listen at; 0 takes a free one.
        side: shrink the long side of a picture to this many pixels.
        seconds: limit for the forward pass of each model.
    """
    from clouds.core.pipeline.composer import load
    from clouds.core.system.images import MAX_PIXELS
    from clouds.inference.page import import_gradio, is_local, open_page
    from clouds.inference.trial import Limits, Model
    from clouds.training.interrupt import StopSignal

    import_gradio()  # before the models are loaded
    limits = Limits(max_pixels=max_pixels or MAX_PIXELS, side=side, seconds=seconds)
    places = [checkpoint] if other is None else [checkpoint, other]
    models = [Model(str(place), load(place, device=device, trust=trust)) for place in places]
    with StopSignal() as stop, open_page(models, limits, host=host, port=port) as address:
        write(f"{' and '.join(map(str, places))} at {address} (Ctrl-C stops)")
        sys.stdout.flush()
        write_notes([] if is_local(host) else ["everybody who reaches this address can use the page; it has no login"])
        while not stop.name:
            time.sleep(_PAUSE)
