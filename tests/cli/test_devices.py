"""Raw disks from the command line: known by their UUID, whatever they are called."""

from pathlib import Path

from tests.cli.command import Command
from tests.cli.serving import read_back, write_pattern


def test_a_disk_is_created_exported_imported_and_removed_by_its_plain_name(tmp_path: Path) -> None:
    cli = Command(tmp_path / "home")
    names = []
    for number in range(3):
        image = tmp_path / f"disk{number}"
        with image.open("wb") as file:
            file.truncate(128 << 20)
        names.append(f"disk:{image}")
    cli("pool", "create", "tank", *names[:2], "--segment-size", "1M")
    cli("volume", "create", "tank/vm", "64M")
    write_pattern(cli.home, "vm", 1 << 20, b"kept")
    urls = [one["url"] for one in cli.json("pool", "status", "tank")["backends"]]
    assert all(url.startswith(name + "?uuid=") for url, name in zip(urls, names, strict=False))
    cli("pool", "export", "tank")
    cli("pool", "import", "tank", *names[:2])
    assert [one["url"] for one in cli.json("pool", "status", "tank")["backends"]] == urls
    cli("pool", "add", "tank", names[2])
    cli("pool", "remove", "tank", names[0])
    assert [one["url"].partition("?")[0] for one in cli.json("pool", "status", "tank")["backends"]] == names[1:]
    assert read_back(cli.home, "vm", 1 << 20, 4) == b"kept"
