"""A source tree as a tarball, made from a seed: many small files, few large ones, as projects have them.

The sizes follow a log-normal distribution with a median of 3 KiB, as source trees do, cut at 1 MiB; one file in
twenty is empty, one entry in a hundred is a symlink. Content is made of words with noise, so that it compresses
like text and no two files are equal.
"""

import io
import math
import random
import tarfile
from pathlib import Path

MEDIAN_BYTES = 3 << 10
SPREAD = 1.4
LARGEST_BYTES = 1 << 20
FILES_PER_DIRECTORY = 12
TEXT_BYTES = 1 << 20


def file_size(chance: random.Random) -> int:
    if chance.random() < 0.05:
        return 0
    return min(LARGEST_BYTES, int(chance.lognormvariate(math.log(MEDIAN_BYTES), SPREAD)))


def text(chance: random.Random) -> bytes:
    """A supply of text to cut contents from; compresses about threefold."""
    words = [chance.randbytes(chance.randint(1, 4)).hex() for _ in range(2000)]
    return " ".join(chance.choices(words, k=TEXT_BYTES // 4)).encode()[:TEXT_BYTES]


def directories(count: int, chance: random.Random) -> list[str]:
    """Names of directories, each inside an earlier one."""
    names = ["tree"]
    for number in range(1, count):
        names.append(f"{names[chance.randrange(max(0, len(names) - 40), len(names))][:200]}/d{number}")
    return names


def write_tarball(path: Path, files: int, seed: int = 1) -> int:
    """Write a tarball with so many files; returns how many entries it has, directories included."""
    chance = random.Random(seed)
    supply = text(chance)
    places = directories(max(1, files // FILES_PER_DIRECTORY), chance)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for place in places:
            tar.addfile(_info(place, tarfile.DIRTYPE, 0o755))
        for number in range(files):
            name = f"{places[number % len(places)]}/file-{number}.c"
            if chance.random() < 0.01:
                link = _info(name, tarfile.SYMTYPE, 0o777)
                link.linkname = f"file-{number + 1}.c"
                tar.addfile(link)
                continue
            size = file_size(chance)
            begin = chance.randrange(TEXT_BYTES)
            content = (b"%d\n" % number + (supply * 2)[begin : begin + size])[:size]
            info = _info(name, tarfile.REGTYPE, 0o644)
            info.size = size
            tar.addfile(info, io.BytesIO(content))
    return len(places) + files


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = mode
    info.mtime = 1_700_000_000
    return info
