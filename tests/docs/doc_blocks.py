"""The fenced code blocks of the documentation, and how each is run.

A page is run from its first block to its last, in one folder and one Python namespace, so that blocks build on those
before them, as for a reader. What a block is tells its language:

    python          run; with `title="FILE"` it is written to that file instead, as is every other titled block
    pycon           run as a doctest: what it prints must be what stands there, `...` stands for anything
    sh              each line run: `clouds ...` by the command's own parser in this process, all else by bash
    console         the same for the lines that begin with `$ `; what they print must be what stands below them

A comment before a block, `<!-- not run: REASON -->`, keeps it from being run: it must still compile, or be command
lines that the parser of `clouds` takes. `<!-- before: COMMAND -->` runs a shell command that readers need not see.
"""

from __future__ import annotations

import ast
import doctest
import re
import runpy
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import field, frozen

from clouds.cli.app import build_app, main

RUN = ("python", "pycon", "sh", "console")
NOT_RUN = ("text", "toml", "json", "bibtex", "make")
_FENCE = re.compile(
    r'(?:^<!-- (?P<comment>(?:not run|before): .*?) -->\n+)?^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n'
    r"(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@frozen(kw_only=True)
class Block:
    """One fenced block.

    Attributes:
        line: of its first line of code.
        title: the file that it is; empty for others.
        skipped: why it is not run; empty when it is.
        before: a hidden shell command.
    """

    page: Path
    line: int
    language: str
    text: str
    title: str = ""
    skipped: str = ""
    before: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def find_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for match in _FENCE.finditer(text):
        word, _, rest = (match["comment"] or "").partition(": ")
        line = text.count("\n", 0, match.start("text")) + 1
        blocks.append(
            Block(
                page=page,
                line=line,
                language=match["language"],
                text=match["text"],
                title=match["title"] or "",
                skipped=rest if word == "not run" else "",
                before=rest if word == "before" else "",
            )
        )
    return blocks


@frozen
class Runner:
    """Runs the blocks of one page in the current folder.

    Attributes:
        printed: takes what was printed since it was last called.
        namespace: of the page's Python.
    """

    printed: Callable[[], str]
    namespace: dict[str, Any] = field(factory=dict)

    def run(self, block: Block) -> None:
        """Run a block, or check what can be checked of one that is not run."""
        if block.before:
            _bash(block.before)
        if block.title:
            path = Path(block.title)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.skipped:
            check_unrun(block)
        elif block.language == "python":
            script = Path(".blocks") / f"{block.page.stem}.py"
            script.parent.mkdir(exist_ok=True)
            script.write_text("\n" * (block.line - 1) + block.text, encoding="utf-8")  # the page's own line numbers
            self.namespace.update(runpy.run_path(str(script), init_globals=self.namespace))
        elif block.language == "pycon":
            self._doctest(block)
        elif block.language == "sh":
            for line in commands(block.text):
                self._command(line)
        elif block.language == "console":
            self._console(block)

    def _doctest(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(block.text, {}, str(block), str(block.page), block.line)
        test.globs = self.namespace
        report: list[str] = []
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=report.append, clear_globs=False)
        assert not report, "\n".join(report)

    def _console(self, block: Block) -> None:
        checker = doctest.OutputChecker()
        for command, expected in _sessions(block.text):
            self.printed()
            shown = self._command(command)
            same = checker.check_output(expected, shown, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            assert same, f"{block}: `{command}` prints\n{shown}\nbut the page says\n{expected}"

    def _command(self, line: str) -> str:
        """Run one command; returns what it printed."""
        words = shlex.split(line, comments=True)
        if not words:
            return ""
        if words[0] != "clouds":
            return _bash(line)
        code = main(words[1:])
        shown = self.printed()
        assert code == 0, f"`{line}` ended with {code}: {shown}"
        return shown


def commands(text: str) -> list[str]:
    """The command lines of a shell block; a backslash at the end joins the next line."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def check_unrun(block: Block) -> None:
    """Python must compile; of command lines, those of `clouds` must be such as the program takes."""
    if block.language == "python":
        ast.parse(block.text, filename=str(block))
    if block.language == "sh":
        for line in commands(block.text):
            words = shlex.split(line, comments=True)
            if "clouds" in words:
                after = words[words.index("clouds") + 1 :]
                build_app().parse_args(after, exit_on_error=False, print_error=False)


def _sessions(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of a command and what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


def _bash(command: str) -> str:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, f"`{command}` ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout
