"""Runs parts one after the other, within their limits and the total limit, and writes the summary."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen

from benchmarks.gpu.parts import Part

_ROOT = Path(__file__).parents[2]
_LEAST = 5.0  # seconds; less does not suffice for a part's imports
_GRACE = 3.0  # seconds between terminating and killing a process
_MOST_FAILURES = 30  # maximum failures per part in the summary


@frozen(kw_only=True)
class Outcome:
    """Outcome of a part: "done", "failed", "cut off" or "not reached", its duration, and its last line."""

    part: Part
    state: str
    seconds: float = 0.0
    said: str = ""
    failures: tuple[str, ...] = ()

    def __str__(self) -> str:
        took = f"{self.seconds:4.0f} s of {self.part.seconds:3.0f}" if self.seconds else " " * 12
        lines = [f"{self.part.name:<12} {self.state:<12} {took}  {self.said}".rstrip()]
        shown = self.failures[:_MOST_FAILURES]
        left = len(self.failures) - len(shown)
        return "\n    ".join((*lines, *shown, *([f"and {left} more, see its log"] if left else [])))


def run(parts: Sequence[Part], out: Path, limit: float, *, say: Callable[[str], None] = print) -> int:
    """Run all parts, and write `out/summary.txt` after each; return 0 if all were done, else 1.

    Raises:
        OSError: `out` cannot be written.
    """
    end = time.monotonic() + limit
    (out / "logs").mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    obstacle = ""
    for index, part in enumerate(parts):
        _write_summary(out, outcomes, parts[index:])
        left = end - time.monotonic() - _GRACE
        if obstacle or left < _LEAST:
            reason = obstacle or f"the limit of {limit:g} s was reached"
            outcomes.append(Outcome(part=part, state="not reached", said=reason))
        else:
            outcomes.append(run_part(part, out / "logs" / f"{part.name}.txt", min(part.seconds, left)))
        say(str(outcomes[-1]))
        if part.required and outcomes[-1].state != "done":
            obstacle = f"{part.name}: {outcomes[-1].said}"
    _write_summary(out, outcomes, ())
    undone = [outcome.part.name for outcome in outcomes if outcome.state != "done"]
    say(f"not everything was done: {', '.join(undone)}" if undone else "everything was done")
    return int(bool(undone))


def run_part(part: Part, log: Path, seconds: float) -> Outcome:
    """Run one part in its own process group, which is killed at its time limit; its output streams to `log`."""
    start = time.monotonic()
    with open(log, "wb") as stream:
        environment = {**os.environ, **part.environment}
        process = subprocess.Popen(
            part.command, cwd=_ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line.strip()[:160] for line in reversed(lines) if line.strip()), "it said nothing")
    failures = tuple(line[:200] for line in lines if line.startswith(("FAILED", "ERROR")))  # pytest's prefixes
    state = "done"
    if code is None:
        state, said = "cut off", f"after {seconds:.0f} s; last: {said}"
    elif code:
        state, said = "failed", f"exit code {code}: {said}"
    elif failures:
        state = "failed"
    return Outcome(part=part, state=state, seconds=time.monotonic() - start, said=said, failures=failures)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process group, and kill it after a grace period."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_GRACE)
        except ProcessLookupError:  # all have ended
            return
        except subprocess.TimeoutExpired:
            continue


def _write_summary(out: Path, outcomes: Sequence[Outcome], rest: Sequence[Part]) -> None:
    """Write the summary after every part, so that it is right even if this process is killed."""
    running = [Outcome(part=part, state="cut off", said="the run was ended within it") for part in rest[:1]]
    waiting = [Outcome(part=part, state="not reached", said="the run was ended before it") for part in rest[1:]]
    text = "".join(f"{outcome}\n" for outcome in (*outcomes, *running, *waiting))
    (out / "summary.txt").write_text(text, encoding="utf-8")
