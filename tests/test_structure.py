"""The structure of the source: who imports whom, what the core may touch, how large things are.

The lists of exceptions may only shrink. A rule that complains says what to do instead; the second
half of this file shows that each rule can complain.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from structure import rules
from structure.rules import Complaint

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "atoll"
RANKS = rules.parse_ranks(rules.RANKS)
PACKAGES = frozenset(
    path.name for path in SOURCE.iterdir() if path.is_dir() and path.name[0] != "_"
)

# "core/shard.py:ShardCore.open": functions with more than six parameters. May only shrink.
MANY_PARAMETERS: frozenset[str] = frozenset()


def sources(package: str = "") -> list[Path]:
    return sorted((SOURCE / package).rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def listed(paths: Iterable[Path], rule: Callable[[ast.Module, Path], Iterable[Complaint]]) -> str:
    """All complaints of a rule, one per line; empty when there are none."""
    return "\n".join(
        f"{path.relative_to(ROOT)}:{each.line}: {each.text}"
        for path in paths
        for each in rule(parse(path), path)
    )


def assert_none(complaints: str) -> None:
    if complaints:
        pytest.fail(complaints, pytrace=False)


def run_python(program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds our source and sees warnings as they come."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    command = [sys.executable, *flags, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


# The rules, over the source.


def test_imports_go_down_only() -> None:
    def rule(tree: ast.Module, path: Path) -> Iterable[Complaint]:
        package = rules.package_of(path, SOURCE)
        return rules.import_direction(tree, package, RANKS, PACKAGES) if package else ()

    assert_none(listed(sources(), rule))


def test_importing_atoll_imports_nothing_of_ours() -> None:
    assert_none(listed([SOURCE / "__init__.py"], lambda tree, _: rules.root_module(tree)))


def test_core_imports_only_what_cannot_surprise_it() -> None:
    assert_none(listed(sources("core"), lambda tree, _: rules.core_imports(tree)))


def test_core_calls_nothing_that_differs_between_runs() -> None:
    assert_none(listed(sources("core"), lambda tree, _: rules.core_calls(tree)))


def test_core_iterates_over_no_set() -> None:
    assert_none(listed(sources("core"), lambda tree, _: rules.core_set_iteration(tree)))


def test_wire_has_no_sockets() -> None:
    assert_none(listed(sources("wire"), lambda tree, _: rules.wire_imports(tree)))


def test_what_is_small_stays_small() -> None:
    def rule(tree: ast.Module, path: Path) -> Iterable[Complaint]:
        return rules.sizes(tree, len(path.read_text(encoding="utf-8").splitlines()))

    assert_none(listed(sources(), rule))


def test_functions_take_few_parameters() -> None:
    def rule(tree: ast.Module, path: Path) -> Iterable[Complaint]:
        return rules.parameters(tree, path.relative_to(SOURCE).as_posix(), MANY_PARAMETERS)

    assert_none(listed(sources(), rule))


def test_the_list_of_many_parameters_names_only_what_is_there() -> None:
    found = {
        f"{path.relative_to(SOURCE).as_posix()}:{name}"
        for path in sources()
        for name, node in rules.functions(parse(path))
        if rules.num_parameters(node) > rules.MAX_PARAMETERS
    }
    stale = sorted(MANY_PARAMETERS - found)
    assert not stale, f"take these out of MANY_PARAMETERS, they are small now: {stale}"


def test_tests_of_the_core_neither_sleep_nor_load_tensors() -> None:
    paths = sorted((ROOT / "tests" / "core").rglob("*.py"))
    assert_none(listed(paths, lambda tree, _: rules.core_tests(tree)))


# What a bare installation can do.


def test_core_imports_without_any_package_of_others() -> None:
    modules = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in sources("core")
    ]
    program = f"""
        import importlib, sys

        class Bare:
            def find_spec(self, name, path=None, target=None):
                root = name.partition(".")[0]
                if root != "atoll" and root not in sys.stdlib_module_names:
                    raise ModuleNotFoundError(f"core must import without {{root}}")

        sys.meta_path.insert(0, Bare())
        for name in {[name.removesuffix(".__init__") for name in modules]}:
            importlib.import_module(name)
    """
    done = run_python(program)
    assert done.returncode == 0, done.stderr


def test_help_loads_no_heavy_package() -> None:
    program = """
        import json, sys
        from atoll.cli import main
        try:
            main(["--help"])
        except SystemExit as end:
            assert not end.code, end.code
        print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
    """
    done = run_python(program)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    heavy = {"torch", "numpy", "aiohttp", "cryptography", "safetensors", "websockets"}
    assert not loaded & heavy, "atoll --help must load commands late"


def test_import_atoll_loads_only_itself() -> None:
    program = """
        import sys
        import atoll
        print([name for name in sys.modules if name.startswith(("atoll.", "torch"))])
    """
    done = run_python(program)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_version_is_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    source = (SOURCE / "__init__.py").read_text(encoding="utf-8")
    stated = re.search(r'^version = "(.+)"', project, re.MULTILINE)
    given = re.search(r'^__version__: Final = "(.+)"', source, re.MULTILINE)
    assert stated is not None
    assert given is not None
    assert stated[1] == given[1]


# The rules can complain.


def complaints_about(rule: Callable[[ast.Module], Iterable[Complaint]], snippet: str) -> list[str]:
    return [each.text for each in rule(ast.parse(textwrap.dedent(snippet)))]


def test_ranks_read_as_written() -> None:
    assert RANKS["cli"] > RANKS["compare"] == RANKS["chaos"] > RANKS["wire"] > RANKS["core"]


@pytest.mark.parametrize(
    "snippet",
    [
        "import atoll.syncer",
        "import atoll.syncer.service as service",
        "from atoll import syncer",
        "from atoll.syncer import service",
        "from ..syncer import service",
        "from .. import syncer",
        "def late():\n    from atoll.cli import main",
        "from atoll.store.log import Log",  # a neighbour of the same rank
        "from atoll.unheard_of import thing",
    ],
)
def test_an_import_that_does_not_go_down_is_seen(snippet: str) -> None:
    def rule(tree: ast.Module) -> Iterable[Complaint]:
        return rules.import_direction(tree, "merge", RANKS, PACKAGES | {"unheard_of"})

    assert len(complaints_about(rule, snippet)) == 1


@pytest.mark.parametrize(
    "snippet",
    [
        "from atoll.core.ids import FragmentId",
        "from atoll.fragments import layout",
        "from atoll.merge.codecs import encode",
        "from .codecs import encode",
        "from atoll import __version__",
        "import torch",
    ],
)
def test_an_import_that_goes_down_passes(snippet: str) -> None:
    def rule(tree: ast.Module) -> Iterable[Complaint]:
        return rules.import_direction(tree, "merge", RANKS, PACKAGES)

    assert complaints_about(rule, snippet) == []


def test_a_package_without_a_rank_is_seen() -> None:
    def rule(tree: ast.Module) -> Iterable[Complaint]:
        return rules.import_direction(tree, "utils", RANKS, PACKAGES)

    assert len(complaints_about(rule, "x = 1")) == 1


def test_an_early_import_in_the_root_module_is_seen() -> None:
    assert complaints_about(rules.root_module, "from atoll.learner import join")
    assert complaints_about(rules.root_module, "import torch")
    assert not complaints_about(rules.root_module, "import importlib")


@pytest.mark.parametrize(
    "snippet",
    [
        *(f"import {name}" for name in rules.BANNED_IN_CORE),
        "from os import environ",
        "from time import monotonic",
        "import os.path",
        "import msgspec",
        "from atoll.wire import messages",
        "from atoll import merge",
        "from ..wire import messages",
    ],
)
def test_an_import_that_the_core_must_not_have_is_seen(snippet: str) -> None:
    assert len(complaints_about(rules.core_imports, snippet)) == 1


def test_imports_that_the_core_may_have_pass() -> None:
    snippet = """
        import math
        from dataclasses import dataclass
        from atoll.core.ids import FragmentId
        from atoll.core import events
    """
    assert complaints_about(rules.core_imports, snippet) == []


@pytest.mark.parametrize("name", sorted(rules.BANNED_CALLS_IN_CORE))
def test_a_call_that_the_core_must_not_make_is_seen(name: str) -> None:
    assert len(complaints_about(rules.core_calls, f"x = {name}(y)")) == 1


def test_only_the_helper_for_whole_numbers_may_sum() -> None:
    assert complaints_about(rules.core_calls, "def total(values):\n    return sum(values)") == []
    assert complaints_about(rules.core_calls, "def mean(values):\n    return sum(values) / 2")


@pytest.mark.parametrize(
    "snippet",
    [
        "for x in {1, 2}: pass",
        "y = [x for x in set(z)]",
        "y = {x: 1 for x in frozenset(z)}",
        "y = list({x for x in z})",
        "y = tuple(set(z))",
        "y = next(iter({1}))",
        "y = ','.join(set(z))",
        "y = [*set(z)]",
        "for x in a.keys() - b.keys(): pass",
        "for x in a.union(b): pass",
        "def f(live: frozenset[str]):\n    for x in live: pass",
        "def f():\n    live = set()\n    return [x for x in live]",
        "def f():\n    live: set[str] = get()\n    return live.pop()",
        "class C:\n    live: set[str]\n    def f(self):\n        for x in self.live: pass",
        "class C:\n    def f(self):\n        self.live = set()\n        for x in self.live: pass",
    ],
)
def test_a_walk_through_a_set_is_seen(snippet: str) -> None:
    assert complaints_about(rules.core_set_iteration, snippet)


@pytest.mark.parametrize(
    "snippet",
    [
        "y = x in {1, 2}",
        "for x in sorted({1, 2}): pass",
        "y = [x for x in sorted(set(z))]",
        "y = len(set(z)) + max({1})",
        "for x in a.keys(): pass",
        "y = [x for x in z if x in set(w)]",
        "def f(live: set[str]):\n    return sorted(live)",
        "def f():\n    live = set()\n\ndef g():\n    live = []\n    return [x for x in live]",
        "y = stack.pop()",
    ],
)
def test_a_set_that_only_answers_passes(snippet: str) -> None:
    assert complaints_about(rules.core_set_iteration, snippet) == []


def test_a_socket_in_wire_is_seen() -> None:
    assert complaints_about(rules.wire_imports, "import socket")
    assert complaints_about(rules.wire_imports, "from http import client")


def grown(num_lines: int, head: str) -> ast.Module:
    return ast.parse(head + "\n" + "    x = 1\n" * (num_lines - 1))


def test_what_has_grown_too_large_is_seen() -> None:
    assert list(rules.sizes(grown(71, "def f():"), 71))
    assert not list(rules.sizes(grown(70, "def f():"), 70))
    assert list(rules.sizes(grown(31, "def __init__(self):"), 31))
    assert not list(rules.sizes(grown(30, "def __init__(self):"), 30))
    assert list(rules.sizes(ast.parse("x = 1"), 601))


def test_too_many_parameters_are_seen_and_the_list_excuses() -> None:
    tree = ast.parse("class C:\n    def f(self, a, b, c, d, e, f, *, g): pass")
    assert list(rules.parameters(tree, "core/x.py", frozenset()))
    assert not list(rules.parameters(tree, "core/x.py", frozenset({"core/x.py:C.f"})))


def test_self_and_options_of_a_command_are_no_parameters() -> None:
    tree = ast.parse(
        "class C:\n    def f(self, a, b, c, d, e, f): pass\n"
        "def run(a: Annotated[int, typer.Option()], b, c, d, e, f, g): pass"
    )
    assert not list(rules.parameters(tree, "x.py", frozenset()))


def test_a_core_test_that_sleeps_or_loads_tensors_is_seen() -> None:
    assert complaints_about(rules.core_tests, "import time\ntime.sleep(1)")
    assert complaints_about(rules.core_tests, "from torch import nn")
