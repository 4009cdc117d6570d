"""A process that changes a directory and tells every step, and the model of what the directory must be afterwards.

    test ── starts ──▶ python -m tests.mounted.load DIR SEED
         ◀── pipe ──── begin {operation}, done, begin ..., and at the end: broken (the mount is dead)

  LD1  An operation is told before it begins and when it returned, on a pipe, so that what is told is known whatever
       becomes of the mount. Between `begin` and `done` it is in flight: all of it may be there, or nothing.
  LD2  A content operation (put, append) opens, writes, closes: after that the kernel holds nothing back, with or
       without writeback cache. In flight, any blocks of it may be there; others read as zeros or as before.
  LD3  Contents follow from their seed, so that a line of the pipe is enough to know every byte.
"""

import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 4096
SIZE_MAX = 300_000
NAMES = [f"{parent}{name}" for parent in ("", "one/", "two/") for name in ("a", "b", "c", "d", "e")]
DIRECTORIES = ["one", "two"]
Operation = dict[str, Any]


def content(seed: int, size: int) -> bytes:
    """LD3. Half of it compresses."""
    data = random.Random(seed).randbytes(size if seed % 2 else size // 64 + 1)
    return (data * (size // len(data) + 1))[:size] if size else b""


def chosen(rng: random.Random, seed: int) -> Operation:
    """The next operation; many fail, and that is told, too."""
    kind = rng.choices(
        ("put", "append", "rename", "link", "unlink", "mkdir", "rmdir", "truncate"),
        (30, 15, 12, 6, 10, 5, 3, 6),
    )[0]
    size = rng.choice((0, 100, 3000, BLOCK, 20_000, rng.randrange(SIZE_MAX)))
    name = rng.choice(DIRECTORIES if kind in ("mkdir", "rmdir") else NAMES)
    return {"kind": kind, "name": name, "to": rng.choice(NAMES), "seed": seed, "size": size, "sync": rng.random() < 0.2}


def carry_out(directory: Path, operation: Operation) -> None:
    path, to = directory / operation["name"], directory / operation["to"]
    match operation["kind"]:
        case "put" | "append" as kind:
            mode = os.O_TRUNC if kind == "put" else os.O_APPEND
            file = os.open(path, os.O_WRONLY | os.O_CREAT | mode, 0o644)
            try:
                data = memoryview(content(operation["seed"], operation["size"]))
                while data:
                    data = data[os.write(file, data) :]
                if operation["sync"]:
                    os.fsync(file)
            finally:
                os.close(file)
        case "rename":
            os.rename(path, to)
        case "link":
            os.link(path, to)
        case "unlink":
            os.unlink(path)
        case "mkdir":
            os.mkdir(path)
        case "rmdir":
            os.rmdir(path)
        case "truncate":
            os.truncate(path, operation["size"])


def main() -> None:
    """LD1. Ends when the mount does."""
    directory, seed = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    number = seed << 20
    while True:
        number += 1
        operation = chosen(rng, number)
        print(json.dumps(operation), flush=True)
        try:
            carry_out(directory, operation)
            print("done", flush=True)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError):
            print("refused", flush=True)
        except OSError as error:
            if error.strerror == "Directory not empty":
                print("refused", flush=True)
                continue
            print(f"broken: {error}", flush=True)
            return


@dataclass
class Model:
    """What a directory must hold. Names lead to numbers, so that hard links share their content; None: a directory."""

    names: dict[str, int | None] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> "Model":
        return Model(dict(self.names), dict(self.contents))

    def view(self) -> dict[str, bytes | None]:
        return {name: None if at is None else self.contents[at] for name, at in self.names.items()}

    def apply(self, operation: Operation) -> None:
        """An operation that succeeded."""
        name, to, size = operation["name"], operation["to"], operation["size"]
        at = self.names.get(name)
        match operation["kind"]:
            case "put" | "append" as kind:
                if at is None:
                    at = self.names[name] = max(self.contents, default=0) + 1
                before = b"" if kind == "put" else self.contents.get(at, b"")
                self.contents[at] = before + content(operation["seed"], size)
            case "rename":
                if at != self.names.get(to):
                    self.names[to] = self.names.pop(name)
            case "link":
                self.names[to] = at
            case "unlink" | "rmdir":
                del self.names[name]
            case "mkdir":
                self.names[name] = None
            case "truncate":
                assert at is not None
                self.contents[at] = self.contents[at][:size].ljust(size, b"\0")

    def may_be(self, found: dict[str, bytes | None], operation: Operation) -> bool:
        """LD1, LD2: with this operation in flight."""
        after = self.copy()
        try:
            after.apply(operation)
        except (KeyError, AssertionError):
            return False
        if found == after.view():
            return True
        if operation["kind"] not in ("put", "append") or found.keys() != after.names.keys():
            return False
        at = after.names[operation["name"]]
        assert at is not None
        before = self.contents.get(at, b"") if operation["name"] in self.names else b""
        return all(
            _mixed(before, after.contents[at], found[name]) if number == at else found[name] == after.view()[name]
            for name, number in after.names.items()
        )


def _mixed(before: bytes, after: bytes, found: bytes | None) -> bool:
    """Block by block: as before, as after, or a hole."""
    if found is None or len(found) > max(len(before), len(after)):
        return False
    for start in range(0, len(found), BLOCK):
        block = found[start : start + BLOCK]
        old, new = before[start : start + len(block)], after[start : start + len(block)]
        if block.rstrip(b"\0") not in (old.rstrip(b"\0"), new.rstrip(b"\0"), b"") and not (
            new.startswith(block) or (old and new.startswith(old) and block.startswith(old))
        ):
            return False
    return True


class Load:
    """A process of this module and what it told."""

    def __init__(self, directory: Path, seed: int, model: Model) -> None:
        self.directory = directory
        self.model = model
        self.in_flight: Operation | None = None
        self.done = 0
        self.synced = 0
        self.unsynced = 0
        """Since the last fsync."""
        self.problem = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mounted.load", str(directory), str(seed)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            operation = self.in_flight
            if not line.endswith("\n"):
                break  # killed in the middle of a line: this was not told
            if line == "done\n":
                assert operation is not None
                self.model.apply(operation)
                self.done += 1
                synced = operation["sync"] and operation["kind"] in ("put", "append")
                self.synced += synced
                self.unsynced = 0 if synced else self.unsynced + 1
                self.in_flight = None
            elif line == "refused\n":
                self.in_flight = None
            elif line.startswith("broken"):
                self.problem = line
            else:
                self.in_flight = json.loads(line)

    def wait(self) -> None:
        """Until it noticed that the mount is dead."""
        try:
            self._process.wait(30)
        finally:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def verify(self) -> None:
        """LD1: the whole tree can be walked and read, and is what was told. It becomes the model."""
        found = read_tree(self.directory)
        if found != self.model.view():
            flight = self.in_flight
            assert flight is not None and self.model.may_be(found, flight), self._difference(found)
        self.model = _as_model(self.directory, found)
        self.in_flight = None

    def _difference(self, found: dict[str, bytes | None]) -> str:
        expected = self.model.view()
        lines = [f"in flight: {self.in_flight}"]
        for name in sorted(expected.keys() | found.keys()):
            if name not in found or name not in expected:
                lines.append(f"{name} is {'absent' if name in expected else 'there'}")
            elif expected[name] != found[name]:
                sizes = [None if each is None else len(each) for each in (found[name], expected[name])]
                lines.append(f"{name}: {sizes[0]} bytes, expected {sizes[1]} bytes of another content")
        return "\n".join(lines)


def read_tree(directory: Path) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        found[name] = None if path.is_dir() else path.read_bytes()
    return found


def _as_model(directory: Path, found: dict[str, bytes | None]) -> Model:
    model = Model()
    for name, data in found.items():
        at = None if data is None else (directory / name).stat().st_ino
        model.names[name] = at
        if at is not None and data is not None:
            model.contents[at] = data
    return model


if __name__ == "__main__":
    main()
