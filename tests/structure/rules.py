"""The rules that `test_structure.py` holds the source to, as functions from source to complaints.

A rule reads one file's syntax tree and yields complaints: a line number and one sentence that says
what to do instead. Rules run no code of ours, so a broken module is still looked at.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

RANKS = """
cli > compare, chaos > launch > runfile > simulator > train > learner > ferry, syncer > observe
> tape > merge, store > fragments, access > wire > core
"""
"""Imports go down only; names joined by a comma do not import each other."""

MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 600
MAX_PARAMETERS = 6
MAX_CONSTRUCTOR_LINES = 30

BANNED_IN_CORE = {
    "asyncio": "the driver waits, the core returns effects",
    "datetime": "the time is told as now_s",
    "importlib": "imports are written out",
    "logging": "return the reason, the driver logs it",
    "multiprocessing": "the core has one caller",
    "numpy": "no tensors in the core",
    "os": "no environment, no files, no process",
    "random": "dice are thrown by the driver",
    "secrets": "dice are thrown by the driver",
    "socket": "the driver has the sockets",
    "subprocess": "the core starts nothing",
    "threading": "the core has one caller",
    "time": "the time is told as now_s",
    "torch": "no tensors in the core",
    "uuid": "ids are counted, or told",
}
BANNED_CALLS_IN_CORE = {
    "hash": "differs between processes for text",
    "id": "differs between processes",
    "input": "the core reads nothing",
    "open": "the core reads and writes nothing",
    "print": "return the reason, the driver says it",
    "sum": "rounds differently in other versions of Python: `total` for whole numbers, "
    "math.fsum for floats",
    "__import__": "imports are written out",
}
BANNED_IN_WIRE = dict.fromkeys(
    ("aiohttp", "asyncio", "http", "socket", "ssl", "urllib", "websockets"),
    "wire turns messages into bytes and back, the drivers send them",
)
SUM_HELPER = "total"

_SET_METHODS = {"union", "intersection", "difference", "symmetric_difference"}
_SET_TYPES = {"set", "frozenset", "Set", "AbstractSet", "FrozenSet", "MutableSet"}
_KEEPS_ORDER = {"list", "tuple", "iter", "enumerate", "map", "filter", "zip", "reversed"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Complaint:
    """Where, and what to do."""

    line: int
    text: str


def parse_ranks(ranks: str) -> dict[str, int]:
    """Package to rank; the higher may import the lower."""
    levels = [[name.strip() for name in level.split(",")] for level in ranks.split(">")]
    return {name: len(levels) - index for index, level in enumerate(levels) for name in level}


def package_of(path: Path, source_root: Path) -> str:
    """`core` for `src/atoll/core/ids.py`, empty for the modules of `atoll` itself."""
    parts = path.relative_to(source_root).parts
    return parts[0] if len(parts) > 1 else ""


def imported_modules(tree: ast.AST, package: str = "") -> Iterator[tuple[int, str]]:
    """Every module named by an import, wherever it stands, with its line.

    `from atoll import merge` counts as `atoll.merge`; a relative import as one inside the package.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level == 1:
                yield node.lineno, f"atoll.{package}"
            elif node.level > 1 or node.module == "atoll":
                base = "atoll" if node.level < 3 else "atoll.?"
                inner = f".{node.module}" if node.level > 1 and node.module else ""
                for alias in node.names:
                    yield node.lineno, f"{base}{inner}" if inner else f"{base}.{alias.name}"
            else:
                yield node.lineno, node.module or ""


def import_direction(
    tree: ast.AST, package: str, ranks: dict[str, int], packages: frozenset[str]
) -> Iterator[Complaint]:
    """Imports go down the ranks only."""
    if package not in ranks:
        yield Complaint(1, f"package atoll.{package} has no rank: add it to RANKS and to the map")
        return
    for line, module in imported_modules(tree, package):
        root, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if root != "atoll" or target not in packages | ranks.keys() or target == package:
            continue
        if target not in ranks or ranks[target] >= ranks[package]:
            text = f"atoll.{package} must not import atoll.{target}: imports go down only"
            yield Complaint(line, text)


def root_module(tree: ast.Module) -> Iterator[Complaint]:
    """`atoll/__init__.py` imports nothing of ours when it is imported itself."""
    for statement in tree.body:
        for line, module in imported_modules(statement):
            if module.partition(".")[0] not in sys.stdlib_module_names:
                yield Complaint(line, f"`import atoll` must stay free of {module}: look it up late")


def core_imports(tree: ast.AST) -> Iterator[Complaint]:
    """The standard library, less what reads a clock, dice or the world outside; and itself."""
    for line, module in imported_modules(tree, "core"):
        root = module.partition(".")[0]
        if root in BANNED_IN_CORE:
            yield Complaint(line, f"core must not import {root}: {BANNED_IN_CORE[root]}")
        elif root == "atoll":
            if not (module == "atoll.core" or module.startswith("atoll.core.")):
                yield Complaint(line, f"core must not import {module}: it imports nothing of ours")
        elif root not in sys.stdlib_module_names:
            yield Complaint(line, f"core must not import {root}: standard library only")


def wire_imports(tree: ast.AST) -> Iterator[Complaint]:
    """No sockets in wire."""
    for line, module in imported_modules(tree, "wire"):
        root = module.partition(".")[0]
        if root in BANNED_IN_WIRE:
            yield Complaint(line, f"wire must not import {root}: {BANNED_IN_WIRE[root]}")


def core_calls(tree: ast.AST) -> Iterator[Complaint]:
    """Builtins whose answer differs between processes or versions, or that reach outside."""
    helpers = [
        node for node in ast.walk(tree) if isinstance(node, Function) and node.name == SUM_HELPER
    ]
    excused = {id(node) for helper in helpers for node in ast.walk(helper)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        name = node.func.id
        if name in BANNED_CALLS_IN_CORE and not (name == "sum" and id(node) in excused):
            yield Complaint(
                node.lineno, f"core must not call {name}(): {BANNED_CALLS_IN_CORE[name]}"
            )


def core_set_iteration(tree: ast.AST) -> Iterator[Complaint]:
    """A set has no order to rely on: membership is fine, walking through it is not."""
    attributes = _set_attributes(tree)
    for scope in _scopes(tree):
        known = _Sets(names=_set_names(scope), attributes=attributes)
        for node in _own_nodes(scope):
            for walked in _walked_by(node):
                if known.contains(walked):
                    text = "core must not iterate over a set: sort it first, or keep a dict"
                    yield Complaint(walked.lineno, text)


def sizes(tree: ast.Module, num_lines: int) -> Iterator[Complaint]:
    """What is small stays small."""
    if num_lines > MAX_FILE_LINES:
        text = f"{num_lines} lines in a file, at most {MAX_FILE_LINES}: split it"
        yield Complaint(num_lines, text)
    for name, node in functions(tree):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            text = f"{name} has {lines} lines, at most {MAX_FUNCTION_LINES}: name its parts"
            yield Complaint(node.lineno, text)
        elif node.name == "__init__" and lines > MAX_CONSTRUCTOR_LINES:
            limit = f"at most {MAX_CONSTRUCTOR_LINES}"
            text = f"{name} has {lines} lines, {limit}: a constructor only keeps what it is given"
            yield Complaint(node.lineno, text)


def parameters(tree: ast.Module, prefix: str, allowed: frozenset[str]) -> Iterator[Complaint]:
    """At most six parameters, beyond that one frozen object; options of a command do not count."""
    for name, node in functions(tree):
        num = num_parameters(node)
        if num > MAX_PARAMETERS and f"{prefix}:{name}" not in allowed:
            text = f"{name} has {num} parameters, at most {MAX_PARAMETERS}: take one frozen object"
            yield Complaint(node.lineno, text)


def num_parameters(node: Function) -> int:
    """Parameters without self and cls, and without those that the command line fills in."""
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    if every and every[0].arg in ("self", "cls"):
        every = every[1:]
    return sum(not _is_option(each) for each in every)


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name inside the module, nested ones too."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield f"{prefix}{child.name}", child
                yield from walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    return walk(tree, "")


def core_tests(tree: ast.AST) -> Iterator[Complaint]:
    """Tests of the core neither sleep nor load torch."""
    for line, module in imported_modules(tree, "core"):
        if module.partition(".")[0] in ("torch", "numpy"):
            yield Complaint(line, "tests of the core must not import tensors")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "sleep":
            yield Complaint(node.lineno, "tests of the core must not sleep: tell the core the time")


def _is_option(argument: ast.arg) -> bool:
    annotation = argument.annotation
    if not isinstance(annotation, ast.Subscript) or _last_name(annotation.value) != "Annotated":
        return False
    return any(
        isinstance(node, ast.Call) and _last_name(node.func) in ("Option", "Argument")
        for node in ast.walk(annotation.slice)
    )


def _last_name(node: ast.AST | None) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


@dataclass(frozen=True, slots=True)
class _Sets:
    """Names of one function and attributes of one file that are known to hold sets."""

    names: frozenset[str]
    attributes: frozenset[str]

    def contains(self, node: ast.AST) -> bool:
        """Whether the expression is a set, as far as can be seen without types."""
        if isinstance(node, ast.Name):
            return node.id in self.names
        if isinstance(node, ast.Attribute):
            return node.attr in self.attributes
        if isinstance(node, ast.BinOp) and isinstance(
            node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor
        ):
            return any(self.contains(side) or _is_keys(side) for side in (node.left, node.right))
        if isinstance(node, ast.IfExp):
            return self.contains(node.body) or self.contains(node.orelse)
        return _is_set_display(node)


def _is_set_display(node: ast.AST | None) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in _SET_METHODS
    return _last_name(node.func) in ("set", "frozenset")


def _is_keys(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "keys"
    )


def _is_set_annotation(node: ast.AST | None) -> bool:
    if isinstance(node, ast.Subscript):
        node = node.value
    return _last_name(node) in _SET_TYPES


def _scopes(tree: ast.AST) -> list[ast.AST]:
    return [tree, *(node for node in ast.walk(tree) if isinstance(node, Function))]


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a scope without those of functions inside it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, Function):
            yield from _own_nodes(child)


def _assignments(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.AST, bool]]:
    """Targets of assignments, each with whether it was given a set."""
    for node in nodes:
        if isinstance(node, ast.AnnAssign):
            yield node.target, _is_set_annotation(node.annotation) or _is_set_display(node.value)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield target, _is_set_display(node.value)


def _set_names(scope: ast.AST) -> frozenset[str]:
    found = {
        target.id
        for target, is_set in _assignments(_own_nodes(scope))
        if is_set and isinstance(target, ast.Name)
    }
    if isinstance(scope, Function):
        every = [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]
        found |= {each.arg for each in every if _is_set_annotation(each.annotation)}
    return frozenset(found)


def _set_attributes(tree: ast.AST) -> frozenset[str]:
    found = {
        target.attr
        for target, is_set in _assignments(ast.walk(tree))
        if is_set and isinstance(target, ast.Attribute)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= _set_names(node)
    return frozenset(found)


def _walked_by(node: ast.AST) -> list[ast.expr]:
    """The expressions whose elements this node takes in their order."""
    if isinstance(node, ast.For | ast.comprehension):
        return [node.iter]
    if isinstance(node, ast.Starred):
        return [node.value]
    if isinstance(node, ast.Call):
        is_join = isinstance(node.func, ast.Attribute) and node.func.attr == "join"
        if is_join or (isinstance(node.func, ast.Name) and node.func.id in _KEEPS_ORDER):
            return list(node.args)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "pop" and not node.args:
            return [node.func.value]
    return []
