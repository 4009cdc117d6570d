"""A strict reader of packed fields: every length is checked before anything is taken, all must be used up.

Errors are Corrupt and name the thing that was being read.
"""

import struct
from typing import Any

from sds.core.errors import Corrupt


class Cursor:
    """Reads fields of `data` from its beginning; `what` names the data in errors."""

    __slots__ = ("at", "data", "what")

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.what = what
        self.at = 0

    def unpack(self, fields: struct.Struct) -> tuple[Any, ...]:
        at = self.at
        if at + fields.size > len(self.data):
            raise self.corrupt("it is cut off")
        self.at = at + fields.size
        return fields.unpack_from(self.data, at)

    def take(self, size: int) -> bytes:
        at = self.at
        if at + size > len(self.data):
            raise self.corrupt("it is cut off")
        self.at = at + size
        return self.data[at : self.at]

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise self.corrupt("a name is not UTF-8") from None

    @property
    def is_at_end(self) -> bool:
        return self.at == len(self.data)

    def end(self) -> None:
        if not self.is_at_end:
            raise self.corrupt(f"{len(self.data) - self.at} bytes too many")

    def corrupt(self, why: str) -> Corrupt:
        return Corrupt(f"{self.what} is damaged ({why}); restore it from a snapshot or a backup")
