"""The URL of an object store, and its options.

    s3://bucket/prefix?option=value&...

    option            default        meaning
    endpoint_url      AWS            http(s)://host:port of another store
    region            as AWS finds   the bucket's region
    path_style        1 if endpoint  bucket in the path (1) or in the host name (0)
    storage_class     the bucket's   for new objects, e.g. STANDARD_IA
    sse               the bucket's   AES256 or aws:kms
    sse_kms_key       the bucket's   key for aws:kms
    profile           as AWS finds   section of the credentials file
    credentials_file  as AWS finds   absolute path of a file in AWS's format
    parallelism       16             requests at once
    part_size         64M            larger objects are sent in parts of this size; 5M to 5G
    cache_size        10G            this and the next two are for the object backend
    journal_size      4G
    capacity          1P
    conditional       auto           auto: find out whether conditional puts work; no: never use them

  SU1  str(S3Url.parse(text)) is canonical: one text for one meaning; parsing it gives the same S3Url.
  SU2  No secret is accepted, so none is ever kept or shown: an error never repeats what may be one.
  SU3  An unknown option is BadInput: a spelling mistake never means a default.
"""

import re
from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, quote, urlsplit

from sds.core.errors import BadInput
from sds.core.units import format_size, parse_size, shown

MIB = 1 << 20
GIB = 1 << 30
PART_SIZE_MIN = 5 * MIB
PART_SIZE_MAX = 5 * GIB
"""S3's limits; the upper one is also that of an object sent in one piece."""
PARALLELISM_MAX = 256

_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}")
_PREFIX = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*(?:/[a-zA-Z0-9][a-zA-Z0-9._-]*)*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,255}")
_SECRETS = ("key_id", "access_key", "secret", "token", "password")
_SIZES = ("part_size", "cache_size", "journal_size", "capacity")


@dataclass(frozen=True, slots=True)
class S3Url:
    """Fields are named as the options; sizes are in bytes."""

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = False
    storage_class: str | None = None
    sse: str | None = None
    sse_kms_key: str | None = None
    profile: str | None = None
    credentials_file: str | None = None
    parallelism: int = 16
    part_size: int = 64 * MIB
    cache_size: int = 10 * GIB
    journal_size: int = 4 * GIB
    capacity: int = 1 << 50
    conditional: str = "auto"

    @staticmethod
    def parse(url: str) -> "S3Url":
        """BadInput for anything that can never work."""
        try:
            parts = urlsplit(url)
            options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise BadInput("not a URL of an object store: write s3://bucket/prefix?option=value&...") from error
        if parts.scheme != "s3" or parts.fragment:
            raise BadInput("not a URL of an object store: write s3://bucket/prefix?option=value&...")
        if "@" in parts.netloc or ":" in parts.netloc:
            raise BadInput(
                "an s3 URL holds only the bucket before the first /: put keys into a credentials file"
                " (credentials_file=/path) and host and port into endpoint_url="
            )
        if not _BUCKET.fullmatch(parts.netloc):
            raise BadInput(f"{shown(parts.netloc)} is not the name of a bucket: write s3://bucket/prefix")
        prefix = parts.path.strip("/")
        if prefix and not _PREFIX.fullmatch(prefix):
            raise BadInput(f"{shown(prefix)} cannot be a prefix: use parts of letters, digits, . _ - joined by /")
        return _with_options(parts.netloc, prefix, options)

    def __str__(self) -> str:
        base = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        options = "&".join(f"{name}={quote(text, safe=':/')}" for name, text in self._given())
        return f"{base}?{options}" if options else base

    @property
    def place(self) -> str:
        """For messages: where it is, without the options that do not matter there."""
        base = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        return f"{base} at {self.endpoint_url}" if self.endpoint_url else base

    def _given(self) -> list[tuple[str, str]]:
        given = []
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            default = self.endpoint_url is not None if field.name == "path_style" else field.default
            if value != default:
                given.append((field.name, _text(field.name, value)))
        return given


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if name in _SIZES and isinstance(value, int):
        return format_size(value, exact=True)
    return str(value)


def _with_options(bucket: str, prefix: str, options: list[tuple[str, str]]) -> S3Url:
    known = {field.name for field in fields(S3Url)[2:]}
    values: dict[str, object] = {}
    for name, text in options:
        if name not in known:
            if any(word in name.lower() for word in _SECRETS):
                raise BadInput("an s3 URL must not hold keys: put them into a credentials file, credentials_file=/path")
            raise BadInput(f"{shown(name)} is not an option of an s3 URL; known: {', '.join(sorted(known))}")
        if name in values:
            raise BadInput(f"option {name} of an s3 URL is there twice: keep one")
        values[name] = _value(name, text)
    values.setdefault("path_style", "endpoint_url" in values)
    if "sse_kms_key" in values and values.get("sse") != "aws:kms":
        raise BadInput("option sse_kms_key needs sse=aws:kms")
    return S3Url(bucket, prefix, **values)  # type: ignore[arg-type]  # _value gives each its type


def _value(name: str, text: str) -> object:
    if name == "endpoint_url":
        return _endpoint(text)
    if name in _SIZES:
        return _size(name, text)
    if name == "parallelism":
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= PARALLELISM_MAX and len(text) <= 6):
            raise BadInput(f"option parallelism: {shown(text)} is not a number from 1 to {PARALLELISM_MAX}")
        return int(text)
    if name == "path_style":
        return _one_of(name, text, ("0", "1")) == "1"
    if name == "conditional":
        return _one_of(name, text, ("auto", "no"))
    if name == "sse":
        return _one_of(name, text, ("AES256", "aws:kms"))
    if name == "credentials_file":
        if not text.startswith("/") or "\0" in text or "\n" in text:
            raise BadInput("option credentials_file must be an absolute path")
        return text
    if not _WORD.fullmatch(text):
        raise BadInput(f"option {name} of an s3 URL has a value that cannot be right: use letters, digits, . _ : / -")
    return text


def _one_of(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise BadInput(f"option {name} of an s3 URL must be one of: {', '.join(allowed)}")
    return text


def _size(name: str, text: str) -> int:
    try:
        size_bytes = parse_size(text)
    except BadInput as error:
        raise BadInput(f"option {name}: {error}") from error
    if size_bytes == 0:
        raise BadInput(f"option {name} must be more than 0")
    if name == "part_size" and not PART_SIZE_MIN <= size_bytes <= PART_SIZE_MAX:
        raise BadInput(f"option part_size: {shown(text)} is not between 5M and 5G")
    return size_bytes


def _endpoint(text: str) -> str:
    wrong = "option endpoint_url must be http://host:port or https://host:port, without user and password"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise BadInput(wrong) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or port == 0:
        raise BadInput(wrong)
    if parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", text):
        raise BadInput(wrong)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"
