"""The architecture as a test: floors, purity, injected time, cheap imports, sizes (DESIGN)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "nefia").rglob("*.py"))
}

FLOORS = {
    "nefia": 0,  # the version
    "nefia.errors": 0,
    "nefia.units": 0,
    "nefia.openssl": 0,
    "nefia.raft": 1,
    "nefia.state": 2,
    "nefia.wire": 2,
    "nefia.config": 2,
    "nefia.clock": 2,
    "nefia.streams": 2,
    "nefia.certificates": 2,
    "nefia.certificate_files": 2,
    "nefia.credentials": 2,
    "nefia.storage": 3,
    "nefia.net": 3,
    "nefia.guard": 3,
    "nefia.node": 4,
    "nefia.services": 4,
    "nefia.admin": 5,
    "nefia.logs": 6,
    "nefia.collector": 6,
    "nefia.systemd": 6,
    "nefia.rotation": 6,
    "nefia.recovery": 6,
    "nefia.http": 6,
    "nefia.starting": 6,
    "nefia.daemon": 6,
    "nefia.dev": 6,
    "nefia.cli": 7,
    "nefia.embedding": 7,
    "nefia.drill": 7,
    "nefia.mcp_server": 7,
    "nefia.mcp_texts": 7,
    "nefia.__main__": 7,
}
"""A file imports its own floor or a lower one. Packages stand for all that is in them."""

PURE_IMPORTS = {
    "nefia.raft": frozenset(
        {
            "__future__",
            "attrs",
            "bisect",
            "collections",
            "collections.abc",
            "enum",
            "functools",
            "math",
            "operator",
            "typing",
            "random.Random",
            "itertools",
            "heapq",
        }
    ),
    "nefia.state": frozenset(
        {
            "__future__",
            "attrs",
            "bisect",
            "collections",
            "collections.abc",
            "enum",
            "functools.lru_cache",
            "hashlib",
            "heapq",
            "immutables",
            "itertools",
            "math",
            "msgpack",
            "msgspec",
            "msgspec.structs",
            "operator",
            "re",
            "sortedcontainers",
            "sys.intern",
            "typing",
        }
    ),
    **{
        f"nefia.guard.{module}": frozenset(
            {
                "__future__",
                "attrs",
                "collections",
                "collections.abc",
                "enum",
                "itertools",
                "math",
                "typing",
            }
        )
        for module in ("machine", "lives", "life", "outbox", "effects", "plan", "environment")
    },
}
"""What the pure packages may import besides nefia: no clock, file, socket, logger or event loop,
and of `random` only the class, since its functions share one hidden generator."""

ON_INJECTED_TIME = ("nefia.net", "nefia.storage", "nefia.node")
TRIO_TIME = frozenset(
    {"current_time", "sleep", "sleep_until", "move_on_at", "move_on_after", "fail_at", "fail_after"}
)

CLI_IMPORTS = ("nefia.admin.client", "nefia.config", "nefia.errors", "nefia.units")
SLOW_IMPORTS = frozenset(
    {
        "trio",
        "cattrs",
        "structlog",
        "msgpack",
        "lmdb",
        "cryptography",
        "OpenSSL",
        "mcp",
        "pydantic",
        "rich",
    }
)
OPENSSL_PACKAGES = frozenset({"cryptography", "OpenSSL"})
OPENSSL_DOOR = "nefia.openssl"

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 69
EXCUSED_FILES = {
    "nefia/raft/core.py": "every input of the one mutable protocol object in one place; what could "
    "be split off is in election, leader, follower and durability",
}


def within(module: str, package: str) -> bool:
    return module == package or (package != "nefia" and module.startswith(package + "."))


def floor_of(module: str) -> int:
    [floor] = [floor for package, floor in FLOORS.items() if within(module, package)]
    return floor


def imported(tree: ast.AST) -> Iterator[str]:
    """The full name of everything imported, wherever the statement stands: "random.Random"."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{name.name}" for name in names)
            case ast.ImportFrom():
                pytest.fail("relative imports hide which floor they reach")


def module_of(name: str) -> str | None:
    """The module of nefia that importing `name` reaches; None outside nefia."""
    if name in MODULES:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in MODULES else None


def climbs(module: str, tree: ast.AST) -> list[str]:
    reached = {other for name in imported(tree) if (other := module_of(name))}
    return sorted(other for other in reached if floor_of(other) > floor_of(module))


def impurities(tree: ast.AST, allowed: Iterable[str]) -> list[str]:
    return sorted(
        name
        for name in imported(tree)
        if not name.startswith("nefia.")
        and name not in allowed
        and name.rpartition(".")[0] not in allowed
    )


def uses_of_trio_time(tree: ast.AST) -> list[str]:
    names = {name.removeprefix("trio.") for name in imported(tree) if name.startswith("trio.")}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="trio"), attr=attribute):
                names.add(attribute)
    return sorted(names & TRIO_TIME)


def long_functions(tree: ast.AST) -> list[str]:
    functions = (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [
        function.name
        for function in functions
        if (function.end_lineno or 0) - function.lineno + 1 > MAX_FUNCTION_LINES
    ]


def tree_of(path: Path) -> ast.AST:
    return ast.parse(path.read_text(), str(path))


def all_sources() -> list[Path]:
    return [ROOT / "noxfile.py", *MODULES.values(), *sorted((ROOT / "tests").rglob("*.py"))]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    assert climbs(module, tree_of(MODULES[module])) == []


@pytest.mark.parametrize(
    "module", [module for module in MODULES if any(within(module, pure) for pure in PURE_IMPORTS)]
)
def test_pure_packages_stay_pure(module: str) -> None:
    [allowed] = [names for package, names in PURE_IMPORTS.items() if within(module, package)]
    assert impurities(tree_of(MODULES[module]), allowed) == []


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if any(within(module, each) for each in ON_INJECTED_TIME)],
)
def test_time_is_injected(module: str) -> None:
    assert uses_of_trio_time(tree_of(MODULES[module])) == []


@pytest.mark.parametrize("module", MODULES)
def test_there_is_one_door_to_openssl(module: str) -> None:
    """Whoever came first would have OpenSSL configure itself without us."""
    packages = {name.partition(".")[0] for name in imported(tree_of(MODULES[module]))}
    assert bool(packages & OPENSSL_PACKAGES) == (module == OPENSSL_DOOR)


def test_what_the_command_line_imports_is_light() -> None:
    modules = [*(module for module in MODULES if within(module, "nefia.cli")), *CLI_IMPORTS]
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "nefia.cli.root" in loaded
    assert loaded & SLOW_IMPORTS == set()


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT))
        for path in all_sources()
        if len(path.read_text().splitlines()) > MAX_FILE_LINES
    }
    # An excuse that is no longer needed goes too.
    assert long == EXCUSED_FILES.keys()


def test_functions_are_short() -> None:
    found = {str(path.relative_to(ROOT)): long_functions(tree_of(path)) for path in all_sources()}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_daemon_needs_its_assertions(tmp_path: Path) -> None:
    config = tmp_path / "nefia.yaml"
    config.write_text("")
    options = ["--config", str(config), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(
        [sys.executable, "-O", "-m", "nefia", *options, "daemon"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "python -O" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


class TestTheseTestsNotice:
    """Each rule, broken on purpose."""

    @pytest.mark.parametrize(
        "source",
        [
            "from nefia.admin.client import AdminClient",
            "from nefia import daemon",
            "import nefia.cli.root",
            "def late():\n    from nefia.node.node import Node",
        ],
    )
    def test_an_import_from_above(self, source: str) -> None:
        assert climbs("nefia.net.mesh", ast.parse(source)) != []

    @pytest.mark.parametrize(
        "source",
        [
            "import trio",
            "import time",
            "from os import path",
            "import logging",
            "import random",
            "from random import uniform",
            "import collections.abc, socket",
        ],
    )
    def test_an_impurity(self, source: str) -> None:
        assert impurities(ast.parse(source), PURE_IMPORTS["nefia.raft"]) != []

    @pytest.mark.parametrize(
        "source", ["trio.current_time()", "with trio.move_on_after(1): 1", "from trio import sleep"]
    )
    def test_time_that_is_not_injected(self, source: str) -> None:
        assert uses_of_trio_time(ast.parse(source)) != []

    def test_waiting_for_ever_is_no_use_of_time(self) -> None:
        assert uses_of_trio_time(ast.parse("trio.sleep_forever()")) == []

    def test_a_long_function(self) -> None:
        body = "    1\n" * MAX_FUNCTION_LINES
        assert long_functions(ast.parse("def long():\n" + body)) == ["long"]
        assert long_functions(ast.parse("def fits():\n" + body.removesuffix("    1\n"))) == []
