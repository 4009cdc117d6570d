"""Single requests to an object store by boto3: blocking, each tried once. s3.py calls these in threads and tries again.

  SR1  boto3 is imported with the first request, not before: it takes half a second.
  SR2  What an answer says of itself is checked before it is believed: an ETag is there, the range is the one that was
       asked for, as many bytes came as were promised. Garbled otherwise.
  SR3  A read ends at `deadline` (of time.monotonic) even if the store sends a byte now and then.
  SR4  Credentials are read again after `reload`, so that renewed ones are found without a restart.

Content on its way to the store: Content-MD5 goes with every put. It is the one check that every kind of store knows
(newer checksum headers are refused by some, ignored by others), the signature covers it, so that no SHA-256 of the
content is needed, and a store that gives the MD5 as its ETag confirms what it keeps. MD5 runs at 850 MiB/s for each
core, beside the sending.
"""

import base64
import hashlib
import importlib.util
import re
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sds.core.errors import BadInput, Corrupt

from .base import Stat
from .names import is_name
from .objects import Object
from .s3_errors import Garbled, Kind, fault_of, skew_of
from .s3_url import S3Url

CHUNK_BYTES = 1 << 20
"""At most this much is sent or received under one timeout: a slow link is not taken for a dead one."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_PLAIN_ETAG = re.compile(r'"?([0-9a-f]{32})"?')
_PARTS_ETAG = re.compile(r'"?([0-9a-f]{32}-[0-9]+)"?')


class Content:
    """What is put: memory and its MD5, computed once. As many readers as there are tries."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data).cast("B")
        self._digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = hashlib.md5(self.data, usedforsecurity=False).digest()
        return self._digest

    @property
    def content_md5(self) -> str:
        return base64.b64encode(self.digest).decode()


class Body:
    """Content as the file that boto3 wants: pieces of CHUNK_BYTES without copying, whatever size it asks for."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int = -1) -> memoryview:
        piece = self._data[self._at : self._at + CHUNK_BYTES] if size >= 0 else self._data[self._at :]
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._data))[whence]
        return self._at

    def tell(self) -> int:
        return self._at


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer to a put. `confirmed`: its ETag is the MD5 of what we sent; None: it is no MD5."""

    tag: str
    confirmed: bool | None


@dataclass(frozen=True, slots=True)
class Page:
    stats: tuple[Stat, ...]
    after: str | None


class Requests:
    def __init__(self, url: S3Url, connect_s: float, read_s: float) -> None:
        if importlib.util.find_spec("boto3") is None:
            raise BadInput(f"{url.place}: boto3 is not installed: pip install 'sds[s3]'")
        self._url = url
        self._connect_s = connect_s
        self._read_s = read_s
        self._root = f"{url.prefix}/" if url.prefix else ""
        self._lock = threading.Lock()
        self._client: Any = None
        self.page_keys = 1000
        self.skew_s: float | None = None

    def reload(self) -> None:
        """SR4."""
        with self._lock:
            self._client = None

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def put(self, key: str, content: Content, condition: dict[str, str]) -> Stored:
        options = {**self._new_object(), **condition}
        answer = self._call(
            "put_object", Key=self._root + key, Body=Body(content.data), ContentMD5=content.content_md5, **options
        )
        return _stored(answer, content.digest.hex())

    def fetch(self, key: str, size_limit_bytes: int, deadline: float) -> Object:
        answer = self._call("get_object", Key=self._root + key)
        with closing(answer["Body"]) as body:
            length = answer.get("ContentLength")
            tag = _tag(answer)
            if length is None:
                raise Garbled("the answer does not say how long it is: check endpoint_url")
            if length > size_limit_bytes:
                raise Corrupt(f"{self._url.place}: {key}: {length} bytes, more than {size_limit_bytes}")
            content = bytearray(length)
            _read_exactly(body, memoryview(content), deadline)
        return Object(bytes(content), tag)

    def get(self, key: str, offset: int, into: memoryview, deadline: float) -> None:
        if not into:
            self._call("get_object", Key=self._root + key)["Body"].close()
            return
        last = offset + len(into) - 1
        answer = self._call("get_object", Key=self._root + key, Range=f"bytes={offset}-{last}")
        with closing(answer["Body"]) as body:
            skip = self._bytes_before(key, answer, offset, len(into))
            scratch = memoryview(bytearray(min(skip, CHUNK_BYTES)))
            while skip:
                step = min(skip, CHUNK_BYTES)
                _read_exactly(body, scratch[:step], deadline)
                skip -= step
            _read_exactly(body, into, deadline)

    def holds(self, key: str, content: Content, deadline: float) -> tuple[bool, str]:
        """Whether the object is exactly this; and its tag."""
        answer = self._call("get_object", Key=self._root + key)
        with closing(answer["Body"]) as body:
            tag = _tag(answer)
            if answer.get("ContentLength") != len(content.data):
                return False, tag
            scratch = memoryview(bytearray(min(len(content.data), CHUNK_BYTES)))
            for start in range(0, len(content.data), CHUNK_BYTES):
                piece = content.data[start : start + CHUNK_BYTES]
                _read_exactly(body, scratch[: len(piece)], deadline)
                if scratch[: len(piece)] != piece:
                    return False, tag
        return True, tag

    def delete(self, key: str) -> None:
        self._call("delete_object", Key=self._root + key)

    def list_page(self, prefix: str, after: str | None) -> Page:
        """Names of ours only. `after`: the page before gave it."""
        more = {} if after is None else {"ContinuationToken": after}
        answer = self._call("list_objects_v2", Prefix=self._root + prefix, MaxKeys=self.page_keys, **more)
        if "IsTruncated" not in answer:  # Whatever well-formed page this is, S3 did not write it.
            raise Garbled("the answer is not a listing of an S3 store: check endpoint_url")
        names = [(str(entry["Key"]), int(entry["Size"])) for entry in answer.get("Contents", ())]
        if any(not name.startswith(self._root + prefix) for name, _ in names):
            raise Garbled("the listing has keys that were not asked for: is this an S3 store?")
        following = answer.get("NextContinuationToken") if answer["IsTruncated"] else None
        if answer["IsTruncated"] and (not following or following == after):
            raise Garbled("the listing goes on, but does not say where: is this an S3 store?")
        own = ((name[len(self._root) :], size_bytes) for name, size_bytes in names)
        return Page(tuple(Stat(name, size_bytes) for name, size_bytes in own if is_name(name)), following)

    def begin_parts(self, key: str) -> str:
        return str(self._call("create_multipart_upload", Key=self._root + key, **self._new_object())["UploadId"])

    def put_part(self, key: str, upload: str, number: int, content: Content) -> Stored:
        answer = self._call(
            "upload_part", Key=self._root + key, UploadId=upload, PartNumber=number,
            Body=Body(content.data), ContentMD5=content.content_md5,
        )  # fmt: skip
        return _stored(answer, content.digest.hex())

    def end_parts(self, key: str, upload: str, tags: list[str], whole: str) -> Stored:
        """`whole`: the ETag of the object if the store makes it as AWS does."""
        parts = [{"ETag": tag, "PartNumber": number} for number, tag in enumerate(tags, 1)]
        answer = self._call(
            "complete_multipart_upload", Key=self._root + key, UploadId=upload, MultipartUpload={"Parts": parts}
        )
        tag = _tag(answer)
        match = _PARTS_ETAG.fullmatch(tag)
        return Stored(tag, None if match is None or _is_encrypted(answer) else match[1] == whole)

    def abort_parts(self, key: str, upload: str) -> None:
        """Nothing to do if the upload is gone."""
        try:
            self._call("abort_multipart_upload", Key=self._root + key, UploadId=upload)
        except Exception as error:
            if fault_of(error).kind is not Kind.NO_UPLOAD:
                raise

    def list_uploads(self) -> list[tuple[str, str, float]]:
        """All unfinished uploads under names of ours: name, upload, when it began (seconds, the store's clock)."""
        found: list[tuple[str, str, float]] = []
        more: dict[str, str] = {}
        while True:
            answer = self._call("list_multipart_uploads", Prefix=self._root, **more)
            for entry in answer.get("Uploads", ()):
                name = str(entry["Key"])[len(self._root) :]
                if str(entry["Key"]).startswith(self._root) and is_name(name):
                    found.append((name, str(entry["UploadId"]), entry["Initiated"].timestamp()))
            if not answer.get("IsTruncated"):
                return found
            following = {
                "KeyMarker": answer.get("NextKeyMarker", ""),
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }
            if following == more:
                raise Garbled("the listing of uploads goes on, but does not say where: is this an S3 store?")
            more = following

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._connected(), operation)(Bucket=self._url.bucket, **parameters)
        skew_s = skew_of(answer)
        self.skew_s = self.skew_s if skew_s is None else skew_s
        return answer

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _connect(self._url, self._connect_s, self._read_s)
            return self._client

    def _new_object(self) -> dict[str, str]:
        url = self._url
        given = {"StorageClass": url.storage_class, "ServerSideEncryption": url.sse, "SSEKMSKeyId": url.sse_kms_key}
        return {name: value for name, value in given.items() if value is not None}

    def _bytes_before(self, key: str, answer: dict[str, Any], offset: int, count: int) -> int:
        """SR2: how many bytes of this body come before those that were asked for.

        Most stores answer 206 and the range; some 200 and the range, some 200 and everything.
        """
        _tag(answer)
        length, said = answer.get("ContentLength"), answer.get("ContentRange")
        if said is None:
            if answer["ResponseMetadata"]["HTTPStatusCode"] != 200 or length is None:
                raise Garbled("the answer does not say which bytes it has: is this an S3 store?")
            self._check_end(key, length, offset, count)
            return offset
        match = _CONTENT_RANGE.fullmatch(said)
        if match is None or int(match[1]) != offset:
            raise Garbled("the answer has other bytes than asked for: is this an S3 store?")
        if match[3] != "*":
            self._check_end(key, int(match[3]), offset, count)
        if int(match[2]) != offset + count - 1 or length not in (None, count):
            raise Garbled("the answer has more or fewer bytes than asked for: is this an S3 store?")
        return 0

    def _check_end(self, key: str, size_bytes: int, offset: int, count: int) -> None:
        if size_bytes < offset + count:
            raise Corrupt(f"{self._url.place}: {key}: too short, {size_bytes} bytes, for {count} bytes at {offset}")


def _connect(url: S3Url, connect_s: float, read_s: float) -> Any:
    """A client with its own pool of connections. The usual AWS chain finds credentials, unless the URL says where."""
    import boto3
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session()
    session.register_component("data_loader", _service_models())
    if url.credentials_file is not None:
        if not Path(url.credentials_file).is_file():
            raise BadInput(f"{url.place}: no credentials file {url.credentials_file}: create it, or mend the URL")
        session.set_config_variable("credentials_file", url.credentials_file)
    if url.profile is not None or url.credentials_file is not None:
        # Said explicitly, so that keys in the environment do not win over what the URL names.
        session.set_config_variable("profile", url.profile or "default")
    config = Config(
        signature_version="s3v4",
        connect_timeout=connect_s,
        read_timeout=read_s,
        max_pool_connections=url.parallelism,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Content-MD5 is signed and vouches for the content: a SHA-256 beside it would cost a tenth of the speed.
        s3={"addressing_style": "path" if url.path_style else "virtual", "payload_signing_enabled": False},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = url.region or session.get_config_variable("region") or "us-east-1"
    try:
        return boto3.Session(botocore_session=session).client(
            "s3", endpoint_url=url.endpoint_url, region_name=region, config=config
        )
    except ValueError as error:
        raise BadInput(f"{url.place}: endpoint_url or bucket cannot be part of an address: mend the URL") from error


@cache
def _service_models() -> Any:
    """boto3's description of S3, read once: that is most of the time that a new client takes."""
    from botocore.loaders import create_loader

    return create_loader()


def _read_exactly(body: Any, into: memoryview, deadline: float) -> None:
    """SR2, SR3."""
    done = 0
    while done < len(into):
        if time.monotonic() > deadline:
            raise TimeoutError("the answer takes too long")
        count = body.readinto(into[done : done + CHUNK_BYTES])
        if not count:
            raise Garbled(f"the answer ended after {done} of {len(into)} bytes: is the store up?")
        done += count


def _tag(answer: dict[str, Any]) -> str:
    tag = answer.get("ETag")
    if not tag:
        raise Garbled("the answer has no ETag, so it is not one of an S3 store: check endpoint_url")
    return str(tag)


def _is_encrypted(answer: dict[str, Any]) -> bool:
    """So that the ETag is not an MD5 of the content."""
    return str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")


def _stored(answer: dict[str, Any], md5: str) -> Stored:
    tag = _tag(answer)
    match = _PLAIN_ETAG.fullmatch(tag)
    return Stored(tag, None if match is None or _is_encrypted(answer) else match[1] == md5)
