"""Other ways to keep a disk or a filesystem in an object store: s3backer and S3QL, where they are installed.

Each is a mount and the file in it that data jobs use. A cold start forgets all that was cached on this machine.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.mounts import Mount
from tools.s3_running import ACCESS_KEY, SECRET_KEY, S3Server
from tools.sds import run

BLOCK_BYTES = 1 << 20
"""Of s3backer: large enough for bulk transfers; its documentation warns of its default of 4 KiB."""


class Peer:
    """A mount that keeps everything in a bucket. After `sync_all` what was written is in the store."""

    def __init__(self, mount: Mount, file: Path, cache: Path) -> None:
        self.label = mount.label
        self.mount = mount
        self.file = file
        self.cache = cache

    def sync_all(self) -> None:
        """Unmounting waits for uploads, and is the only thing that does."""
        self.mount.stop()
        self.mount.start()

    def restart_cold(self) -> None:
        self.mount.stop()
        shutil.rmtree(self.cache, ignore_errors=True)
        self.cache.mkdir()
        self.mount.start()

    def puts(self) -> int | None:
        """Requests that wrote, since the mount; None: it does not tell."""
        return None


class S3Backer(Peer):
    def puts(self) -> int | None:
        lines = (self.mount.directory / "stats").read_text().splitlines()
        found = dict(line.split()[:2] for line in lines if len(line.split()) >= 2)
        return int(found["http_normal_blocks_written"]) if "http_normal_blocks_written" in found else None


def s3backer(place: Path, server: S3Server, bucket: str, size_bytes: int, parallelism: int) -> Peer | None:
    if shutil.which("s3backer") is None:
        return None
    directory, cache = place / "s3backer", place / "s3backer-cache"
    cache.mkdir()
    command = [
        "s3backer", "-f", f"--accessId={ACCESS_KEY}", f"--accessKey={SECRET_KEY}", f"--baseURL={server.endpoint_url}/",
        "--region=us-east-1", "--prefix=s3backer-", f"--size={size_bytes}", f"--blockSize={BLOCK_BYTES}",
        f"--blockCacheFile={cache / 'blocks'}", f"--blockCacheSize={max(64, size_bytes // BLOCK_BYTES)}",
        f"--blockCacheThreads={parallelism}", f"--readAhead={parallelism}", "--listBlocks", "--quiet", "--force",
        "--minWriteDelay=0", "--md5CacheSize=0", "--md5CacheTime=0", bucket, str(directory),
    ]  # fmt: skip
    return S3Backer(Mount("s3backer", directory, command), directory / "file", cache)


def s3ql(place: Path, server: S3Server, bucket: str, programs: Path | None, parallelism: int) -> Peer | None:
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}" if programs else None
    mkfs, serve = shutil.which("mkfs.s3ql", path=path), shutil.which("mount.s3ql", path=path)
    if mkfs is None or serve is None:
        return None
    directory, cache = place / "s3ql", place / "s3ql-cache"
    cache.mkdir()
    url = f"s3c://{server.endpoint_url.partition('//')[2]}/{bucket}/s3ql-"
    login = place / "s3ql-login"
    login.write_text(f"[s3c]\nstorage-url: {url}\nbackend-login: {ACCESS_KEY}\nbackend-password: {SECRET_KEY}\n")
    login.chmod(0o600)
    common = ["--authfile", str(login), "--cachedir", str(cache), "--log", "none", "--backend-options", "no-ssl"]
    run(mkfs, "--plain", *common, url)
    words = [serve, *common, "--fg", "--compress", "none", "--threads", str(parallelism), url, str(directory)]
    return Peer(Mount("s3ql", directory, words), directory / "file", cache)


def plain_s(
    verb: str, server: S3Server, bucket: str, count: int, size_bytes: int, threads: int
) -> float:
    """Seconds that plain boto3 takes."""
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    words = [verb, server.endpoint_url, bucket, str(count), str(size_bytes), str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.s3_plain", *words],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=os.environ | keys,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"plain boto3 failed: {done.stderr[-1000:]}")
    return float(done.stdout)
