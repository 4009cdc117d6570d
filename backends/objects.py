"""The contract of an object store: what the object backend (object_backend.py) needs, and S3 can do.

An object has a key (a name of ours, names.py, with a prefix of the store's own that does not show), content, and a
tag that changes with its content.

  OS1  put: all or nothing. Whoever reads after it returned sees it. If it raises, the object may be there, now or
       later: a request that timed out may still be carried out. So content is never put under a key that may stand
       for other content, `replace` and `only_new` excepted.
  OS2  put with only_new: Exists if there is an object with this key. BadInput if the store cannot tell (see probe).
  OS3  replace: puts only if the tag of what is there is still `tag` (None: nothing is there); Exists if it is not.
       After a BackendError the caller reads to find out what happened.
  OS4  get fills the buffer or raises: Missing, Corrupt (the object is too short, or its checksum is wrong).
  OS5  list is complete or raises: never a part. Sorted by key.
  OS6  Errors are SdsErrors that name store and key: BackendError for what may pass (after retries), NoSpace for a
       store that is full, BadInput for what an operator has to mend (credentials, bucket, permission).
  OS7  Every call ends within HANG_S of base.py, retries included; put of a large object within PUT_LIMIT_S.
"""

from dataclasses import dataclass
from typing import Protocol

from .base import Stat

PUT_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Object:
    content: bytes
    tag: str


class ObjectStore(Protocol):
    @property
    def url(self) -> str:
        """Without secrets."""

    @property
    def conditional(self) -> bool:
        """Whether only_new and replace work (as probed, or as the URL says)."""

    @property
    def parallelism(self) -> int:
        """Requests that may be under way at once; more wait their turn."""

    async def put(self, key: str, content: bytes | memoryview, only_new: bool = False) -> None:
        """OS1, OS2."""

    async def replace(self, key: str, content: bytes, tag: str | None) -> str:
        """OS3. The new tag."""

    async def fetch(self, key: str, size_limit_bytes: int) -> Object:
        """The whole object. Missing; Corrupt if it is larger than the limit."""

    async def get(self, key: str, offset: int, into: memoryview) -> None:
        """OS4."""

    async def delete(self, key: str) -> None:
        """Deleting nothing is fine."""

    async def list(self, prefix: str) -> list[Stat]:
        """OS5."""

    async def close(self) -> None: ...
