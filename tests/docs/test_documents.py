"""Documents name files, invariants and other documents that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import planner
from fuse.options import _DROPPED, _OURS, KERNEL_FLAGS
from sds.cli.mount_options import parse_options
from sds.cli.parser import build_parser
from sds.core.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_file_that_a_document_names_exists() -> None:
    for document in DOCUMENTS:
        tops = "sds|fuse|backends|tests|bench|demo|docs|tools|contrib"
        for name in re.findall(rf"`((?:{tops})/[\w./-]+)`", document.read_text()):
            assert (ROOT / name).exists(), f"{document.name} names {name}"


def test_every_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_promise_has_tests() -> None:
    parts = re.split(r"^## (P\d) ", (ROOT / "docs/promises.md").read_text(), flags=re.MULTILINE)
    promises = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(promises) == [f"P{number}" for number in range(1, 10)]
    for name, text in promises.items():
        assert re.search(r"^Tests: .*`tests/", text, re.MULTILINE), f"{name} names no test"


def test_every_invariant_that_the_promises_refer_to_is_written_in_some_module() -> None:
    code = "\n".join(path.read_text() for top in ("sds", "fuse", "backends") for path in (ROOT / top).rglob("*.py"))
    for name in re.findall(r"\b[A-Z]{1,2}\d\b", (ROOT / "docs/promises.md").read_text()):
        if not name.startswith("P"):
            assert re.search(rf"^\s*{name} ", code, re.MULTILINE), f"no module states {name}"


def test_invariants_that_the_architecture_counts_are_those_of_the_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Where the invariants are")[2]
    counted = 0
    for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        directory = ROOT
        for name, letters, first, last in re.findall(r"`([\w./]+)` ([A-Z]+)(\d+)(?:-[A-Z]+(\d+))?", row):
            path = ROOT / name if "/" in name else directory / name
            directory = path.parent
            stated = {int(n) for n in re.findall(rf"^\s*{letters}(\d+) ", path.read_text(), re.MULTILINE)}
            assert stated == set(range(int(first), int(last or first) + 1)), f"{name} {letters}: {sorted(stated)}"
            counted += 1
    assert counted > 30


def commands() -> Iterator[list[str]]:
    """Words behind `sds` of every example in the documents; `[...]` is a synopsis and no example."""
    for document in DOCUMENTS:
        text = document.read_text()
        fences = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        for line in [*fences.splitlines(), *re.findall(r"^    (\S.*)$", text, re.MULTILINE)]:
            if re.search(r"(^|[\s/(])sds ", line):
                for words in simple_commands(line.partition(" #")[0]):
                    called = [at for at, word in enumerate(words) if word.endswith("/bin/sds")]
                    called += [0] if words[:1] == ["sds"] else []
                    if called and not any("[" in word for word in words):
                        yield words[called[0] + 1 :]


def simple_commands(line: str) -> Iterator[list[str]]:
    """Between the operators of the shell that are not quoted."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("();|&"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def test_every_example_of_a_command_is_one_that_the_command_line_takes() -> None:
    parser = build_parser()
    for words in commands():
        parser.parse_args(words)  # SystemExit: it does not
    assert len(list(commands())) > 30


def test_every_mount_option_is_in_the_operations_and_works() -> None:
    text = (ROOT / "docs/operations.md").read_text().partition("| `-o` | means |")[2].partition("\n\n")[0]
    table = set(re.findall(r"`([a-z_]+)(?:=DIR)?`", "\n".join(row.split("|")[1] for row in text.splitlines()[2:])))
    known = (set(_OURS) | KERNEL_FLAGS | {"home"}) - {"norelatime", "nostrictatime"}
    assert table == known
    for word in sorted(known - {"home"}) + sorted(_DROPPED):
        parse_options([word])
    with pytest.raises(BadInput):
        parse_options(["nonsense"])


def test_the_table_behind_the_size_of_map_pages_is_what_the_planner_says() -> None:
    text = (ROOT / "docs/decisions/0003-map-page-size.md").read_text()
    assert [row for row in planner.rows() if row not in text] == []
