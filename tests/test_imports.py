"""The layout: which package may import which. Read ALLOWED; the tests only hold it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parent

# What a package or module may import, when it is loaded or inside functions. All may import `errors`.
ALLOWED: dict[str, str] = {
    "errors":    "",
    "threads":   "",
    "version":   "",
    "storage":   "",
    "spec":      "storage",
    "hooks":     "storage spec",
    "vgg":       "storage spec threads",
    "images":    "storage spec version threads",
    "transfer":  "images vgg storage spec version threads",
    "execution": "transfer images vgg storage spec version threads",
    "batch":     "execution transfer images vgg storage spec version threads",
    "page":      "batch execution images storage spec version threads",
    "watch":     "batch execution transfer images vgg storage spec version threads",
    "api":       "batch execution transfer images vgg storage spec version threads",
    "cli":       "watch page hooks batch execution transfer images vgg storage spec version threads",
    # The package offers a few names of its modules.
    "__init__":  "api spec version",
    "__main__":  "cli",
}  # fmt: skip

# Loaded with these; all else imports them when a job runs, inside functions.
TENSORS = ("torch", "torchvision", "safetensors")
WITH_TENSORS = ("transfer", "vgg")
MAY_ASK_LATE = ("execution.results", "cli.doctor")
# Print and exit; nothing else does.
MAY_PRINT = ("cli.main", "cli.commands")
# But for the main function of a process of our own.
MAY_EXIT = {("execution.worker_process", "os._exit")}


@dataclass(frozen=True)
class Import:
    """`target` is dotted, ours as seen from the package: `batch.runner`, `transfer.engine`; or a library."""

    module: str
    target: str
    late: bool
    line: int

    @property
    def is_ours(self) -> bool:
        return package(self.target) in ALLOWED

    def __str__(self) -> str:
        return f"{self.module} imports {self.target} (line {self.line}{', late' if self.late else ''})"


def package(module: str) -> str:
    return module.partition(".")[0]


@cache
def modules() -> dict[str, Path]:
    paths = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in sources()}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(module: str, path: Path) -> Iterator[Import]:
    inside = ["pipeline", *module.split(".")]
    if path.name != "__init__.py":
        inside.pop()
    elif module == "__init__":
        inside = ["pipeline"]
    for node, late in walk(ast.parse(path.read_text(encoding="utf-8")), late=False):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import version` names a module; `from .version import VERSION` a thing in one.
            names = {f"{origin}.{alias.name}" for alias in node.names}
            targets = sorted(names & {f"pipeline.{name}" for name in modules()}) or [origin]
        else:
            continue
        for target in targets:
            ours = target == "pipeline" or target.startswith("pipeline.")
            short = target.removeprefix("pipeline").lstrip(".") or "__init__"
            yield Import(module, short if ours else target, late, node.lineno)


def walk(node: ast.AST, late: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inside = True
        yield child, inside
        yield from walk(child, inside)


@cache
def all_imports() -> list[Import]:
    return [found for module, path in modules().items() for found in imports(module, path)]


def is_allowed(found: Import) -> bool:
    here, there = package(found.module), package(found.target)
    return there in {here, "errors", *ALLOWED[here].split()}


def test_every_package_is_allowed_something() -> None:
    assert {package(module) for module in modules()} == set(ALLOWED)


def test_packages_import_only_what_is_allowed() -> None:
    found = [one for one in all_imports() if one.is_ours]
    assert len(found) > 40, "the parser sees too little"
    assert [str(one) for one in found if not is_allowed(one)] == []


def test_imports_have_one_direction() -> None:
    graph = {name: {*below.split(), "errors"} - {name} for name, below in ALLOWED.items()}
    assert {*ALLOWED} == {*TopologicalSorter(graph).static_order()}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Late imports count too: a circle that is put off is still a circle."""
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for found in all_imports():
        if found.is_ours and found.module != "__init__":
            graph[found.module].add(found.target)
    assert len(list(TopologicalSorter(graph).static_order())) >= len(modules())


def test_packages_hold_no_code_of_their_own() -> None:
    for name, path in modules().items():
        if path.name == "__init__.py" and name != "__init__":
            (docstring,) = ast.parse(path.read_text(encoding="utf-8")).body
            assert isinstance(docstring, ast.Expr), name


def test_only_two_packages_are_loaded_with_tensors() -> None:
    found = [one for one in all_imports() if package(one.target) in TENSORS]
    outside = [one for one in found if package(one.module) not in WITH_TENSORS]
    assert [str(one) for one in outside if not (one.late and one.module in MAY_ASK_LATE)] == []


def test_torch_is_not_loaded_until_a_job_runs() -> None:
    left = [name for name in modules() if package(name) not in {*WITH_TENSORS, "__init__", "__main__"}]
    left.append("transfer.pyramid")  # a dry run plans the sizes
    lines = [f"import pipeline.{name}" for name in left]
    lines += ["from pipeline import Recipe, stylize", "import sys", "print([*sys.modules])"]
    # Our own warnings only: libraries are judged where they are used.
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = ast.literal_eval(done.stdout)
    assert "pipeline.batch.runner" in loaded
    assert [name for name in loaded if package(name) in TENSORS] == []


def calls_that_print_or_exit(tree: ast.AST) -> Iterable[tuple[str, int]]:
    """Whatever prints or exits: print(), sys.exit(), typer.echo(), raise SystemExit, sys.stdout ..."""
    names = {"print", "input", "exit", "quit", "SystemExit", "breakpoint"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith(("typer.", "click.")) or name in {
                "sys.exit", "sys.stdout", "sys.stderr", "os._exit", "os.abort", "rich.print",
            }:  # fmt: skip
                yield name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module in {"typer", "click", "rich"}:
            yield f"from {node.module}", node.lineno


def may_print(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in MAY_PRINT)


@pytest.mark.parametrize("module", [module for module in sorted(modules()) if not may_print(module)])
def test_only_the_commands_print_or_exit(module: str) -> None:
    found = calls_that_print_or_exit(ast.parse(modules()[module].read_text(encoding="utf-8")))
    outside = [f"{module}:{line}: {name}" for name, line in found if (module, name) not in MAY_EXIT]
    assert outside == []


def test_the_check_above_finds_prints_and_exits() -> None:
    assert list(calls_that_print_or_exit(ast.parse((ROOT / "cli" / "main.py").read_text(encoding="utf-8"))))
    assert [name for name, _ in calls_that_print_or_exit(ast.parse("print(1); sys.exit(2)"))] == [
        "print",
        "sys.exit",
    ]
