"""The floor plan: who may import whom. Read the table; the tests below only hold it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parent

# What a module imports as it is loaded: "always". What it imports inside functions, when it is needed,
# or for type checkers only: "late". `neural` stands for any module of the right wing.
ALLOWED: dict[str, tuple[str, str]] = {
    # module       always                                                      late
    "version":   ("",                                                          ""),
    "errors":    ("",                                                          ""),
    "files":     ("",                                                          ""),
    "streams":   ("",                                                          ""),
    "words":     ("",                                                          ""),
    "rows":      ("",                                                          ""),
    "threads":   ("",                                                          ""),
    "documents": ("errors files words",                                                    ""),
    "recipe":    ("documents errors",                                          ""),
    "names":     ("",                                                          ""),
    "globs":     ("names",                                                     ""),
    "config":    ("documents errors globs names recipe",                       ""),
    "jobs":      ("errors recipe",                                             ""),
    "manifest":  ("config documents errors globs jobs names recipe",           ""),
    "locks":     ("",                                                          ""),
    "ledger":    ("errors files locks",                                        ""),
    "outbox":    ("errors files",                                              ""),
    "inbox":     ("errors files names",                                        ""),
    "events":    ("inbox",                                                     ""),
    "claims":    ("errors files inbox names",                                  ""),
    "owner":     ("errors files inbox locks",                                  ""),
    "service":   ("config",                                                    ""),
    "routes":    ("claims config documents errors inbox jobs manifest names recipe", ""),
    "watcher":   ("claims config events files inbox names routes",             ""),
    "inputs":    ("errors jobs recipe",                                        "neural"),
    "results":   ("inputs jobs recipe version",                                "neural"),
    "executors": ("config errors files inputs jobs recipe results",            "neural"),
    "deadline":  ("errors",                                                    ""),
    "worker":    ("errors executors jobs recipe results",                      ""),
    "pool":      ("config executors worker",                                   "neural"),
    "estimate":  ("ledger recipe",                                             ""),
    "lanes":     ("executors jobs",                                            ""),
    "runner":    ("deadline errors estimate executors files jobs lanes ledger outbox words", ""),
    "plan":      ("errors inputs jobs outbox runner words",                    ""),
    "single":    ("documents errors executors jobs outbox recipe runner",      "neural"),
    "inspection": ("documents errors files",                                   "neural"),
    "doctor":    ("config errors executors version",                           "neural"),
    "status":    ("claims config doctor errors files jobs ledger owner runner service version "
                  "waiting words", ""),
    "waiting":   ("claims config errors estimate files inbox ledger recipe routes watcher", ""),
    "logfile":   ("errors",                                                    ""),
    "display":   ("errors estimate files jobs logfile recipe rows runner status words", ""),
    "signals":   ("",                                                          ""),
    "folders":   ("config errors files inbox owner",                           ""),
    "daemon":    ("claims config deadline errors events executors files folders inbox jobs ledger "
                  "manifest outbox owner routes runner service status watcher words", ""),
    "api":       ("config documents errors executors inputs jobs recipe results threads", "neural"),
    "__init__":  ("version",                                                   "api jobs recipe"),
    "cli":       ("errors files streams threads version words",                "*"),
    "__main__":  ("cli",                                                       ""),
    # The right wing: tensors, and nothing of folders, jobs or manifests.
    "neural":    ("errors files recipe threads version words",                 ""),
}  # fmt: skip

# Only the right wing is loaded with these; doctor and results ask for torch inside functions.
TENSORS = ("torch", "torchvision", "safetensors")
MAY_ASK_LATE = ("doctor", "results")


@dataclass(frozen=True)
class Import:
    """`target` is dotted, ours as seen from the package: `runner`, `neural.engine`; or a library."""

    module: str
    target: str
    late: bool
    line: int

    @property
    def is_ours(self) -> bool:
        return wing(self.target) in ALLOWED

    def __str__(self) -> str:
        return f"{self.module} imports {self.target} (line {self.line}{', late' if self.late else ''})"


def wing(module: str) -> str:
    return module.partition(".")[0]


def modules() -> dict[str, Path]:
    paths = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in sources()}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(module: str, path: Path) -> Iterator[Import]:
    package = ["pipeline", *module.split(".")]
    if path.name != "__init__.py":
        package.pop()
    elif module == "__init__":
        package = ["pipeline"]
    for node, late in walk(ast.parse(path.read_text(encoding="utf-8")), late=False):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import version` names a module; `from .version import VERSION` a thing in one.
            names = {f"{origin}.{alias.name}" for alias in node.names}
            inside = names & {f"pipeline.{name}" for name in modules()}
            targets = sorted(inside) or [origin]
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


def all_imports() -> list[Import]:
    return [found for module, path in modules().items() for found in imports(module, path)]


def is_allowed(found: Import) -> bool:
    always, late = (set(names.split()) for names in ALLOWED[wing(found.module)])
    target = wing(found.target)
    if target == wing(found.module) == "neural" or target in always:
        return True
    return found.late and (target in late or "*" in late)


def test_every_module_is_in_the_table() -> None:
    assert {wing(module) for module in modules()} == set(ALLOWED)


def test_modules_import_what_the_table_allows() -> None:
    found = all_imports()
    assert len([one for one in found if one.is_ours]) > 40, "the parser sees too little"
    assert [str(one) for one in found if one.is_ours and not is_allowed(one)] == []


def test_the_table_names_nothing_twice_and_nothing_unknown() -> None:
    for module, (always, late) in ALLOWED.items():
        named = [*always.split(), *late.replace("*", "").split()]
        assert len(set(named)) == len(named), module
        assert set(named) <= set(ALLOWED), module


def test_arrows_point_one_way() -> None:
    """Late imports count too: a cycle that is put off is still a cycle."""
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for found in all_imports():
        # The package itself offers a few names of its modules, late; that is a door, not a dependency.
        if found.is_ours and found.module != "__init__":
            graph[found.module].add(found.target)
    assert len(list(TopologicalSorter(graph).static_order())) >= len(modules())


def test_the_table_has_no_cycle() -> None:
    graph = {
        module: {*always.split(), *(late.split() if late != "*" else set(ALLOWED) - {"cli", "__main__"})}
        for module, (always, late) in ALLOWED.items()
        if module != "__init__"
    }
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("errors") < order.index("neural") < order.index("executors") < order.index("runner")


def test_only_main_imports_cli() -> None:
    assert {one.module for one in all_imports() if wing(one.target) == "cli"} == {"__main__"}


def test_only_the_right_wing_is_loaded_with_tensors() -> None:
    found = [one for one in all_imports() if wing(one.target) in TENSORS and wing(one.module) != "neural"]
    assert [str(one) for one in found if not (one.late and one.module in MAY_ASK_LATE)] == []


def test_torch_is_not_loaded_until_a_job_runs() -> None:
    left = [name for name in modules() if wing(name) != "neural" and name not in {"__init__", "__main__"}]
    lines = [f"import pipeline.{name}" for name in left]
    lines += ["from pipeline import Recipe, stylize", "import sys", "print([*sys.modules])"]
    # Our own warnings only: libraries are judged where they are used.
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = ast.literal_eval(done.stdout)
    assert "pipeline.runner" in loaded
    assert [name for name in loaded if wing(name) in TENSORS] == []


def calls_that_speak(tree: ast.AST) -> Iterable[tuple[str, int]]:
    """Whatever prints or exits: print(), sys.exit(), typer.echo(), raise SystemExit, sys.stdout ..."""
    speaking = {"print", "input", "exit", "quit", "SystemExit", "breakpoint"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in speaking:
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith(("typer.", "click.")) or name in {
                "sys.exit", "sys.stdout", "sys.stderr", "os._exit", "os.abort", "rich.print",
            }:  # fmt: skip
                yield name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module in {"typer", "click", "rich"}:
            yield f"from {node.module}", node.lineno


@pytest.mark.parametrize("module", sorted(set(modules()) - {"cli"}))
def test_only_cli_prints_or_exits(module: str) -> None:
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    assert [f"{module}:{line}: {name}" for name, line in calls_that_speak(tree)] == []


def test_the_check_above_can_hear() -> None:
    assert list(calls_that_speak(ast.parse((ROOT / "cli.py").read_text(encoding="utf-8"))))
    assert [name for name, _ in calls_that_speak(ast.parse("print(1); sys.exit(2)"))] == ["print", "sys.exit"]
