"""Kills a call between every two operations on files, and repeats it until it is done.

`kill_at.c`, preloaded into this process, counts operations below Python and kills at a given one. The process imports
everything and makes the call once undisturbed; every further call is made in a fork of it, so that a kill costs no more
than the call itself.

    LD_PRELOAD=kill_at.so python drill.py generate FOLDER [--twice]
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import field, frozen

Tree = dict[str, str]


def tree(folder: Path) -> Tree:
    """Every file, link and folder below a folder, hidden ones too, with what it holds."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"


def _nothing(folder: Path) -> None:
    return None


@frozen(kw_only=True)
class Scenario:
    """A call that writes files.

    Attributes:
        call: makes everything in a folder, which is empty or what a killed call left.
        before: what is in the folder at first.
        result: what must be equal to that of an undisturbed call.
        growing: names of files that grow line by line; all others appear whole.
        check: raises when what a killed call left in the folder is not usable; it changes nothing.
    """

    call: Callable[[Path], object]
    before: Callable[[Path], object] = _nothing
    result: Callable[[Path], dict[str, Any]] = tree
    growing: tuple[str, ...] = ()
    check: Callable[[Path], None] = _nothing


@frozen
class Drill:
    """Calls of one scenario in one folder, which is emptied before each.

    Attributes:
        folder: where the calls write; beside it, `FOLDER.err` gets what they say.
        expected: the result of an undisturbed call.
        whole: what each file may hold.
    """

    scenario: Scenario
    folder: Path
    expected: dict[str, Any] = field(factory=dict)
    whole: list[Tree] = field(factory=list)

    def undisturbed(self) -> None:
        """In this process, so that all later ones have imported and prepared what a call needs."""
        self._renew()
        self.whole.append(tree(self.folder))
        self.scenario.call(self.folder)
        self.expected.update(self.scenario.result(self.folder))
        self.whole.append(tree(self.folder))

    def kill_everywhere(self, *, twice: bool) -> Iterator[list[str]]:
        """The faults of each kill, until there is no further operation to kill at."""
        number = 1
        while True:
            self._renew()
            if self._forked(number) == 0:
                return
            faults = self._faults_left() or self._go_on(number if twice else 0)
            yield [f"operation {number}: {fault}" for fault in faults]
            number += 1

    def _go_on(self, second: int) -> list[str]:
        if second:
            self._forked(1 + second * 7 % 101)  # somewhere else, or nowhere
        if code := self._forked(0):
            return [f"the same call again ends with {code}: {self._said()}"]
        found = self.scenario.result(self.folder)
        return [
            f"{name}: {found.get(name)}, undisturbed {self.expected.get(name)}"
            for name in sorted({*found, *self.expected})
            if found.get(name) != self.expected.get(name)
        ]

    def _faults_left(self) -> list[str]:
        """What is wrong with the visible files that a killed call left."""
        found = tree(self.folder)
        half = [
            f"{name} is neither as before nor as after an undisturbed call"
            for name, content in found.items()
            if not any(part[0] == "." for part in Path(name).parts) and Path(name).name not in self.scenario.growing
            if all(one.get(name, content) != content for one in self.whole)
        ]
        try:
            self.scenario.check(self.folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault of what was left
            half.append(f"left unusable: {type(error).__name__}: {error}")
        if tree(self.folder) != found:
            half.append("looking at it changed it")
        return half

    def _renew(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.scenario.before(self.folder)

    def _forked(self, number: int) -> int:
        """Make the call in a fork that is killed at an operation (0: not at all); 0 when it came to its end."""
        child = os.fork()
        if child == 0:
            errors = os.open(self.folder.with_suffix(".err"), os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(errors, 1)
            os.dup2(errors, 2)
            code = 1
            try:
                preloaded().kill_at(number)
                self.scenario.call(self.folder)
                code = 0
            except BaseException:  # noqa: BLE001 - the fork must never go on with what its parent does
                preloaded().kill_at(0)
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if number and code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the call itself fails with {code} before operation {number}: {self._said()}")
        return code

    def _said(self) -> str:
        return self.folder.with_suffix(".err").read_text(errors="replace", encoding="utf-8")[-2000:]


def preloaded() -> ctypes.CDLL:
    """The functions of `kill_at.c`."""
    return ctypes.CDLL(None)


def run(name: str, folder: Path, *, twice: bool) -> dict[str, Any]:
    """Carry out a drill. Returns the number of kills, and all faults."""
    import torch
    from scenarios import SCENARIOS

    torch.set_num_threads(1)  # a fork has none of its parent's threads
    with SCENARIOS[name](folder / "given") as scenario:
        drill = Drill(scenario, folder / "made")
        drill.undisturbed()
        found = list(drill.kill_everywhere(twice=twice))
    return {"kills": len(found), "faults": [fault for faults in found for fault in faults]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(sys.argv[1], Path(sys.argv[2]), twice="--twice" in sys.argv)) + "\n")
