"""Rules that hold for every file of the project."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("clouds", "plugins", "benchmarks", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MOST_LINES = 399
MOST_LINES_OF_A_FUNCTION = 39


def name_of(node: ast.expr) -> str:
    """`a.b.c` as written, for a chain of names."""
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""


def length_of(node: ast.stmt | None) -> int:
    return 0 if node is None else (node.end_lineno or 0) - node.lineno + 1


def long_functions(node: ast.AST) -> bool:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    docstring = node.body[0] if ast.get_docstring(node) else None
    return length_of(node) - length_of(docstring) > MOST_LINES_OF_A_FUNCTION


def pickles(node: ast.AST) -> bool:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return any(module.partition(".")[0] in ("pickle", "dill", "shelve", "joblib") for module in modules)


def evaluates_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and name_of(node.func) in ("eval", "exec")


def uses_a_shell(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    named = name_of(node.func)
    writes_completion = named.endswith(".generate_completion")  # its `shell` is the shell that will read the script
    shell = any(word.arg == "shell" for word in node.keywords) and not writes_completion
    return named in ("os.system", "os.popen") or shell


def loads_unsafely(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and name_of(node.func) == "torch.load"):
        return False
    safe = [word for word in node.keywords if word.arg == "weights_only"]
    return not (safe and isinstance(safe[0].value, ast.Constant) and safe[0].value.value is True)


def catches_everything(node: ast.AST) -> bool:
    return isinstance(node, ast.ExceptHandler) and node.type is None


def depends_on_the_locale(node: ast.AST) -> bool:
    """Reads or writes text without naming its encoding: under `LANG=C` it fails or differs."""
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr
    return named in ("read_text", "write_text") and all(word.arg != "encoding" for word in node.keywords)


def found(rule: Callable[[ast.AST], bool]) -> Iterator[str]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if rule(node):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


@pytest.mark.parametrize(
    "rule",
    [
        long_functions,
        pickles,
        evaluates_text,
        uses_a_shell,
        loads_unsafely,
        catches_everything,
        depends_on_the_locale,
    ],
)
def test_no_code_breaks_a_rule(rule: Callable[[ast.AST], bool]) -> None:
    assert list(found(rule)) == []


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (long_functions, "def f():\n" + "    x = 1\n" * 39, "def f():\n    '''Why.'''\n" + "    x = 1\n" * 38),
        (pickles, "from pickle import loads", "from json import loads"),
        (pickles, "import a, dill.source", "import pickled"),
        (evaluates_text, "eval('1')", "model.eval()"),
        (uses_a_shell, "run('ls', shell=True)", "run(['ls'])"),
        (loads_unsafely, "torch.load('a')", "torch.load('a', weights_only=True)"),
        (loads_unsafely, "torch.load('a', weights_only=False)", "clouds.load('a')"),
        (catches_everything, "try: ...\nexcept: ...", "try: ...\nexcept OSError: ..."),
        (depends_on_the_locale, "path.read_text()", "path.read_text(encoding='utf-8')"),
    ],
)
def test_rules_find_what_they_look_for(rule: Callable[[ast.AST], bool], bad: str, good: str) -> None:
    assert any(rule(node) for node in ast.walk(ast.parse(bad)))
    assert not any(rule(node) for node in ast.walk(ast.parse(good)))


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
    assert "clouds/core/contract/catalog.py" in lengths


def test_test_modules_have_unique_names() -> None:
    """Without `__init__.py`, pytest cannot import two test modules of one name."""
    counts = Counter(path.name for path in FILES if path.is_relative_to(ROOT / "tests"))
    assert [name for name, count in counts.items() if count > 1 and name.startswith("test_")] == []
    assert Path(__file__).name in counts


def imports_of(path: Path, modules: Iterable[str]) -> set[str]:
    """The modules of ours that a file imports anywhere: inside functions and under TYPE_CHECKING, too."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(modules)


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_form_no_circle() -> None:
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "clouds").rglob("*.py")}
    assert len(paths) > 200
    # What a package re-exports is looked up by name, when it is asked for: its __init__ is above all of its modules.
    graph = {name: imports_of(path, paths) for name, path in paths.items() if not name.endswith("__init__")}
    assert find_circle(graph) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    inner = "def f():\n    from clouds.a import b\nif TYPE_CHECKING:\n    import clouds.c"
    (tmp_path / "file.py").write_text(inner, encoding="utf-8")
    assert imports_of(tmp_path / "file.py", ["clouds.a", "clouds.c", "clouds.d"]) == {"clouds.a", "clouds.c"}
    assert set(find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
    assert find_circle({"a": {"b"}, "b": {"c"}}) == []


def test_parts_depend_on_each_other_as_designed() -> None:
    """The contracts of `[tool.importlinter]` in pyproject.toml, which are the table of dependencies."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout
