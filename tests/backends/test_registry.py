"""What the user calls a backend becomes that backend, or one line that says what to do."""

from pathlib import Path

import pytest
import trio

from backends.registry import connect
from sds.core.errors import BadInput, Missing


def test_directories_by_path_and_by_url_are_the_same_backend(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "with space").mkdir()
        for url in ("{}/with space/", "file://{}/with%20space", "{}/./x/../with space"):
            backend = connect(url.format(tmp_path))
            assert backend.url == f"{tmp_path}/with space"
            await backend.close()

    trio.run(main)


def test_other_kinds_say_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="none"):
        connect(f"disk:{tmp_path}/none")
    for url in ("s3://", "s3://user:secret@bucket/x", "s3://bucket/x?secret_access_key=y", "s3://bucket/x?what=y"):
        with pytest.raises(BadInput):
            connect(url)


UNKNOWN = ["", "relative/dir", "ftp://x", "file://host/dir", "file:///d?x=1", "/a\0b", "file:x"]


@pytest.mark.parametrize("url", UNKNOWN)
def test_anything_else_is_refused_with_what_is_known(url: str) -> None:
    with pytest.raises(BadInput, match=r"use /dir, disk:/dev/sdX or s3://bucket/prefix"):
        connect(url)


def test_a_directory_that_is_missing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no such directory"):
        connect(str(tmp_path / "none"))
