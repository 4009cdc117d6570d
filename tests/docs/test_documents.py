"""Documents name files, invariants and other documents that exist."""

import re
from pathlib import Path

from bench import planner

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_file_that_a_document_names_exists() -> None:
    for document in DOCUMENTS:
        for name in re.findall(r"`((?:sds|backends|tests|bench|demo|docs|tools)/[\w./-]+)`", document.read_text()):
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
    code = "\n".join(path.read_text() for top in ("sds", "backends") for path in (ROOT / top).rglob("*.py"))
    for name in re.findall(r"\b[A-Z]{1,2}\d\b", (ROOT / "docs/promises.md").read_text()):
        if not name.startswith("P"):
            assert re.search(rf"^\s*{name} ", code, re.MULTILINE), f"no module states {name}"


def test_the_table_behind_the_size_of_map_pages_is_what_the_planner_says() -> None:
    text = (ROOT / "docs/decisions/0003-map-page-size.md").read_text()
    assert [row for row in planner.rows() if row not in text] == []
