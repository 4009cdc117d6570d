"""The label of a backend: a small file `sds-pool` that says to which pool it belongs.

| field   | type    | meaning                                       |
|---------|---------|-----------------------------------------------|
| format  | int     | version of this table, 1                      |
| pool    | string  | UUID of the pool, 32 hex digits               |
| name    | string  | name of the pool when the label was written   |
| backend | string  | UUID of the backend, 32 hex digits            |
| created | int     | seconds since 1970                            |
"""

import json
import re
from dataclasses import asdict, dataclass

from backends.base import Backend
from sds.core.errors import Corrupt, Missing

LABEL = "sds-pool"
LABEL_BYTES_MAX = 4096
LABEL_FORMAT = 1
_UUID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Label:
    pool: str
    name: str
    backend: str
    created: int
    format: int = LABEL_FORMAT


def encode_label(label: Label) -> bytes:
    return json.dumps(asdict(label), indent=1, sort_keys=True).encode() + b"\n"


def decode_label(data: bytes, url: str) -> Label:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"backend {url}: {LABEL} is damaged (not JSON)") from error
    expected = {"pool": str, "name": str, "backend": str, "created": int, "format": int}
    if not isinstance(fields, dict) or {key: type(value) for key, value in fields.items()} != expected:
        raise Corrupt(f"backend {url}: {LABEL} is damaged (wrong fields)")
    if fields["format"] != LABEL_FORMAT:
        raise Corrupt(
            f"backend {url}: {LABEL} has format {fields['format']}, this program knows 1: upgrade sds"
        )
    if not (_UUID.fullmatch(fields["pool"]) and _UUID.fullmatch(fields["backend"])):
        raise Corrupt(f"backend {url}: {LABEL} is damaged (bad UUID)")
    return Label(**fields)


async def read_label(backend: Backend) -> Label:
    """Missing if it has none."""
    try:
        data = await backend.get(LABEL, LABEL_BYTES_MAX)
    except Missing as error:
        raise Missing(f"backend {backend.url} has no label {LABEL}: it belongs to no pool") from error
    return decode_label(data, backend.url)


async def write_label(backend: Backend, label: Label) -> None:
    await backend.put(LABEL, encode_label(label))
