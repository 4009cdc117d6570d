"""The rules of the house, as tests: import direction, size of files and functions, docs in step with code."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tools.sds import PROGRAM, run

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("sds", "backends", "fuse")
ALL = (*PRODUCT, "bench", "tools", "demo", "tests")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

# From the bottom up; a package imports itself and what stands before it.
LAYERS = (
    "sds.core", "backends", "sds.pool", "sds.log", "sds.dataset", "sds.maintenance",
    "sds.volume", "sds.filesystem", "sds.replication", "sds.nbd", "fuse", "sds.daemon", "sds.cli",
)  # fmt: skip
# Packages that stand on the ladder, but may import of ours only this.
BESIDE = {"fuse": ("fuse", "sds.filesystem", "sds.core")}
# Each of these third-party packages has one home.
HOMES = {"pyfuse3": ("fuse",), "boto3": ("backends",), "botocore": ("backends",), "sqlalchemy": ("sds.pool",)}


def files(*tops: str) -> list[Path]:
    return sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def package(module: str) -> str:
    """The layer a module belongs to: sds.nbd.server -> sds.nbd, backends.disk -> backends."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "sds" else parts[0]


def package_of(path: Path) -> str:
    return package(".".join(path.relative_to(ROOT).with_suffix("").parts))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = path.relative_to(ROOT).parts[: -node.level]
                module = ".".join((*above, module)) if module else ".".join(above)
            # `from sds import nbd` and `from sds.nbd import server` both name a package of ours.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def allowed(layer: str) -> tuple[str, ...]:
    return BESIDE[layer] if layer in BESIDE else LAYERS[: LAYERS.index(layer) + 1]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def documents() -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))


def test_imports_point_downwards_only() -> None:
    for path in files(*PRODUCT):
        layer = package_of(path)
        if layer == "sds.__init__":
            continue
        for module in imports(path):
            if module.split(".")[0] in PRODUCT:
                assert package(module) in allowed(layer), f"{named(path)} imports {module}"


def test_every_outside_package_with_one_home_is_imported_there_only() -> None:
    for path in files(*PRODUCT):
        for module in imports(path):
            homes = HOMES.get(module.split(".")[0])
            assert homes is None or package_of(path) in homes, f"{named(path)} imports {module}"


def test_the_core_does_no_io() -> None:
    banned = {"trio", "os", "io", "socket", "subprocess", "pathlib", "mmap", "tempfile", "shutil", "asyncio"}
    for path in files("sds/core"):
        found = banned & {module.split(".")[0] for module in imports(path)}
        assert found == set(), f"{named(path)} imports {found}"


def test_every_module_says_what_it_is_for() -> None:
    """An empty __init__.py has nothing to say."""
    for path in files(*ALL):
        assert not tree(path).body or ast.get_docstring(tree(path)), f"{named(path)} has no docstring"


def test_files_and_functions_fit_a_reader() -> None:
    for path in files(*ALL):
        lines = len(path.read_text().splitlines())
        assert lines <= FILE_LINES_MAX, f"{named(path)}: {lines} lines"
        for function in functions(path):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{named(path)}: {function.name} has {length} lines"


def test_nothing_is_left_to_be_done() -> None:
    marker = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    for path in files(*ALL):
        assert marker.search(path.read_text()) is None, f"{named(path)} has a marker of unfinished work"


def test_only_the_command_line_reads_the_environment() -> None:
    for path in files(*PRODUCT):
        if package_of(path) == "sds.cli":
            continue
        for node in ast.walk(tree(path)):
            reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
            assert not reads, f"{named(path)}:{getattr(node, 'lineno', 0)} reads the environment"


def test_no_error_is_swallowed() -> None:
    for path in files(*PRODUCT):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and isinstance(node.body[0], ast.Pass):
                broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                assert not broad, f"{named(path)}:{node.lineno} swallows every error"


def test_every_error_class_is_documented() -> None:
    text = documents()
    for node in tree(ROOT / "sds/core/errors.py").body:
        if isinstance(node, ast.ClassDef):
            assert re.search(rf"\b{node.name}\b", text), f"docs/ does not mention {node.name}"


def test_every_make_verb_is_in_the_readme() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    text = (ROOT / "README.md").read_text()
    for verb in phony[1].split():
        assert f"make {verb}" in text, f"README.md does not mention `make {verb}`"


def verbs() -> list[str]:
    """What the command line itself says it can do: the {a,b,c} of its usage."""
    usage = run(PROGRAM, "--help")
    names = re.search(r"\{([a-z,-]+)\}", usage)
    assert names is not None, f"no verbs in: {usage}"
    return names[1].split(",")


def test_every_verb_of_the_command_line_is_documented() -> None:
    operations = ROOT / "docs/operations.md"
    text = (ROOT / "README.md").read_text() + (operations.read_text() if operations.exists() else "")
    missing = [verb for verb in verbs() if f"sds {verb}" not in text]
    assert missing == [], f"neither README.md nor docs/operations.md shows: {missing}"
