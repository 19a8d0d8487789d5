"""The `clouds` command: its subcommands, exit codes and error messages."""

from __future__ import annotations

import errno
import os
import select
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, Literal

from cyclopts import App, CycloptsError, Parameter

from clouds import __version__
from clouds.cli import (
    ablate,
    bench,
    catalog_commands,
    compare,
    convert,
    data_commands,
    doctor,
    evaluate_command,
    export,
    model_commands,
    predict_command,
    push,
    refine_commands,
    score,
    serve,
    sheet,
    weights_commands,
)
from clouds.cli.options import UsageError
from clouds.cli.output import write, write_notes
from clouds.core.system.errors import CloudsError, LeftOutWarning, TrustError
from clouds.core.system.files import printable

_HELP = """Domain-generalized semantic segmentation with collaborating foundation models.

`clouds demo` shows the whole method in minutes; `clouds COMMAND --help` explains a command.
"""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EPILOGUE = "Exit codes: 0 done, 1 failed, 2 wrong use. CLOUDS_TRACEBACK=1 shows the traceback of an error."


def build_app() -> App:
    """All commands, in the order in which a new user needs them."""
    plain = Parameter(negative=())  # no --no-x and --empty-x twins
    app = App(name="clouds", help=_HELP, help_epilogue=_EPILOGUE, version=__version__, default_parameter=plain)
    commands = {
        "demo": model_commands.demo,
        "list": catalog_commands.list_components,
        "info": catalog_commands.info,
        "doctor": doctor.doctor,
        "plan": model_commands.plan,
        "train": model_commands.train,
        "evaluate": evaluate_command.evaluate,
        "evaluate-segments": evaluate_command.evaluate_segments,
        "score": score.score,
        "compare": compare.compare,
        "ablate": ablate.ablate,
        "predict": predict_command.predict,
        "serve": serve.serve,
        "prompts": data_commands.prompts,
        "generate": data_commands.generate,
        "sheet": sheet.sheet,
        "push": push.push,
        "convert": convert.convert,
        "export": export.export,
        "bench": bench.bench,
        "completion": completion,
    }
    for order, (name, function) in enumerate(commands.items()):
        app.command(function, name=name, sort_key=order)
    refining = refine_commands.refine_app()
    refining.sort_key = list(commands).index("generate") + 0.5
    app.command(refining)
    datasets = App(name="datasets", help="Check and convert labelled datasets.", sort_key=len(commands))
    datasets.command(data_commands.check, name="check")
    datasets.command(data_commands.convert, name="convert")
    app.command(datasets)
    weights = weights_commands.weights_app()
    weights.sort_key = len(commands) + 1
    app.command(weights)
    return app


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a script for the shell that completes commands and options.

    For bash: clouds completion bash > ~/.local/share/bash-completion/completions/clouds

    Args:
        shell: your shell.
    """
    write(build_app().generate_completion(shell=shell))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted, 141 output closed.

    Args:
        arguments: arguments after the program name; None means those of the process.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may have undecodable bytes
    try:
        tokens = list(sys.argv[1:] if arguments is None else arguments)
        command, bound, _ = build_app().parse_args(tokens, exit_on_error=False, print_error=False)
        with _readable_warnings():
            code = command(*bound.args, **bound.kwargs) or 0
        sys.stdout.flush()
        return code
    except (CycloptsError, UsageError) as error:
        return _fail(error, code=2)
    except TrustError as error:
        fault = f"{error.fault}; if you trust whoever made it, add --trust {error.kind}"
        return _fail(error, code=1, message=fault)
    except (CloudsError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _output_closed():
            return 141  # as a program that SIGPIPE ends
        full = isinstance(error, OSError) and error.errno in _FULL
        return _fail(error, code=1, hint="; free disk space, and repeat the command" if full else "")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _output_closed() -> bool:
    """Whether nobody reads standard output any more, as after `| head`; what is left to write is then discarded."""
    output = select.poll()
    output.register(sys.stdout, 0)  # errors are always reported
    closed = bool(output.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


@contextmanager
def _readable_warnings() -> Generator[None]:
    """Escape control characters in warnings; show each `LeftOutWarning` once, as a note, regardless of filters."""
    noted = set[str]()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if not issubclass(category, LeftOutWarning):
                show(printable(str(message)), category, *place)
            elif str(message) not in noted:
                noted.add(str(message))
                write_notes([str(message)])

        warnings.showwarning = note
        warnings.simplefilter("always", LeftOutWarning)
        yield


def _fail(error: Exception, *, code: int, hint: str = "", message: str = "") -> int:
    if os.environ.get("CLOUDS_TRACEBACK") == "1":
        raise error
    sys.stderr.write(f"error: {printable(message or str(error))}{hint}\n")
    return code
