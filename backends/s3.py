"""An object store that speaks S3, kept to the contract of objects.py (OS1-OS7). boto3 in threads.

  ST1  Each try is one request; tries, waits and limits are decided here (s3_errors.py has the table), never in boto3.
       A try that outlives the limit of its call is left alone (bounded.py), and ends soon after (SR3).
  ST2  Reads find a place: contents on their way to the store take at most three quarters of the places.
  ST3  A put returns when the store confirmed what it keeps: the ETag is our MD5. If it differs and the object read back
       does too, BackendError. Stores whose ETag is never an MD5 are found out by one reading back, once. Where the ETag
       says nothing (encrypted, parts), Content-MD5 made the store check.
  ST4  Conditional puts are not believed in until this process saw one refused (s3_conditions.py), unless told so.
  ST5  If a condition fails after a try whose answer was lost, that try may have won. The object is read: if it is
       what we put, we won. So content that must be told from others' has something of its own in it.
  ST6  A listing of many pages has the time of HANG_S for each page, and ends because the store's keys do (OS7 bends
       here: a million objects take longer).
  ST7  Credentials are read again when the store refuses them, and the request is tried once more.
"""

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from sds.core.errors import BackendError, BadInput, Exists, Missing, SdsError

from .base import HANG_S, Stat
from .bounded import in_thread
from .names import check_name, check_prefix
from .objects import PUT_LIMIT_S, Object
from .s3_conditions import conditions_work
from .s3_errors import BACKOFFS, Fault, Kind, fault_of
from .s3_multipart import put_in_parts
from .s3_requests import Content, Page, Requests, Stored
from .s3_url import PART_SIZE_MAX, S3Url

LARGE_BYTES = 1 << 20
"""From here a put has PUT_LIMIT_S."""
SKEW_NOISE_S = 2.0
"""The store's clock comes in whole seconds, and late."""
Result = TypeVar("Result")
Faults = list[Fault]
Work = Callable[[Requests, float], Result]
"""A blocking request, and when it must have ended (on the clock of time.monotonic)."""


@dataclass(frozen=True, slots=True)
class Limits:
    connect_s: float = 5.0
    read_s: float = 20.0
    call_s: float = HANG_S
    put_s: float = PUT_LIMIT_S


class ConditionFailed(Exists):
    """`after_retry`: an earlier try of the same put may have been carried out."""

    def __init__(self, text: str, after_retry: bool) -> None:
        super().__init__(text)
        self.after_retry = after_retry


class S3Store:
    def __init__(
        self,
        url: S3Url | str,
        conditional: bool | None = None,
        limits: Limits = Limits(),
        seed: int | None = None,
    ) -> None:
        """`conditional`: what a probe found before; None: find out when it matters. Nothing is sent yet.

        BadInput for a URL that cannot work, or without boto3. `seed` is for the jitter.
        """
        self.s3_url = S3Url.parse(url) if isinstance(url, str) else url
        self._requests = Requests(self.s3_url, limits.connect_s, limits.read_s)
        self._limits = limits
        self._random = random.Random(seed)
        self._conditional = False if self.s3_url.conditional == "no" else conditional
        self._conditional_lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(self.s3_url.parallelism)
        self._uploads = trio.Semaphore(max(1, self.s3_url.parallelism * 3 // 4))
        self._etags_are_md5 = True
        self._an_etag_was_md5 = False
        self._quotes: tuple[bool, ...] = (True, False)
        """Spellings of If-Match to try: with the quotes of HTTP; without, for Ceph RGW 16, which knows no other."""

    @property
    def url(self) -> str:
        return str(self.s3_url)

    @property
    def conditional(self) -> bool:
        return self._conditional is not False

    @property
    def parallelism(self) -> int:
        return self.s3_url.parallelism

    @property
    def skew_s(self) -> float | None:
        """By how much the store's clock is ahead of ours, of the last answer; to a second."""
        return self._requests.skew_s

    async def put(self, key: str, content: bytes | memoryview, only_new: bool = False) -> None:
        check_name(self.url, key)
        if only_new:
            await self._need_conditional(key)
            await self.put_if(key, content, None)
        else:
            await self.put_always(key, content)

    async def replace(self, key: str, content: bytes, tag: str | None) -> str:
        check_name(self.url, key)
        await self._need_conditional(key)
        return await self.put_if(key, content, tag)

    async def fetch(self, key: str, size_limit_bytes: int) -> Object:
        check_name(self.url, key)
        return await self.fetch_any(key, size_limit_bytes)

    async def get(self, key: str, offset: int, into: memoryview) -> None:
        check_name(self.url, key)
        into = into.cast("B")
        await self.request(key, lambda requests, deadline: requests.get(key, offset, into, deadline), self.soon())

    async def delete(self, key: str) -> None:
        check_name(self.url, key)
        await self.delete_any(key)

    async def list(self, prefix: str) -> list[Stat]:
        """ST6."""
        check_prefix(self.url, prefix)
        found: dict[str, Stat] = {}
        after: str | None = None
        while True:
            page = await self.request(f"list {prefix}", _page(prefix, after), self.soon())
            found.update((stat.name, stat) for stat in page.stats)
            after = page.after
            if after is None:
                return sorted(found.values(), key=lambda stat: stat.name)

    async def abort_uploads(self, older_than_s: float) -> int:
        """Gives up what crashed uploads in parts left: it takes room and no listing shows it. How many they were."""
        uploads = await self.request("list uploads", lambda requests, _: requests.list_uploads(), self.soon())
        skew_s = self.skew_s or 0.0
        before = time.time() + (skew_s if abs(skew_s) > SKEW_NOISE_S else 0.0) - older_than_s
        old = [(key, upload) for key, upload, began in uploads if began <= before]
        for key, upload in old:
            await self.give_up(key, upload)
        return len(old)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            await in_thread(self._requests.close, trio.CapacityLimiter(1), f"{self.s3_url.place}: close")

    # For the other modules of this store: keys are not checked, so that a probe can use some that no listing shows.

    async def put_always(self, key: str, data: bytes | memoryview) -> None:
        content = Content(data)
        deadline = self._put_deadline(content)
        if len(content.data) > self.s3_url.part_size:
            await put_in_parts(self, key, content, self.s3_url.part_size, deadline)
            return
        async with self.uploading(key, deadline):
            stored = await self.request(key, lambda requests, _: requests.put(key, content, {}), deadline)
        await self.confirm(key, content, stored, deadline)

    async def put_if(self, key: str, data: bytes | memoryview, tag: str | None) -> str:
        """OS2, OS3; in one piece (MU4). The new tag."""
        content = Content(data)
        if len(content.data) > PART_SIZE_MAX:
            raise BadInput(f"{self.s3_url.place}: {key}: too large to be put on a condition: at most 5G")
        deadline = self._put_deadline(content)
        quotes = self._quotes if tag is not None else (True,)
        for quoted in quotes:
            condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": _spelled(tag, quoted)}
            try:
                async with self.uploading(key, deadline):
                    stored = await self._put_once_if(key, content, condition, deadline)
            except ConditionFailed as refused:
                if refused.after_retry:
                    return await self._who_won(key, content, tag, deadline, refused)
                if quoted is quotes[-1]:
                    raise Exists(str(refused)) from refused
                continue
            if tag is not None:
                self._quotes = (quoted,)
            await self.confirm(key, content, stored, deadline)
            return stored.tag
        raise AssertionError("there is always one spelling")

    async def fetch_any(self, key: str, size_limit_bytes: int) -> Object:
        return await self.request(
            key, lambda requests, deadline: requests.fetch(key, size_limit_bytes, deadline), self.soon()
        )

    async def delete_any(self, key: str) -> None:
        try:
            await self.request(key, lambda requests, _: requests.delete(key), self.soon())
        except Missing:
            return

    async def holds(self, key: str, content: Content, deadline: float) -> str | None:
        """The object's tag if it is exactly this content."""
        same, tag = await self.request(
            f"{key} (read back)", lambda requests, end: requests.holds(key, content, end), deadline
        )
        return tag if same else None

    async def give_up(self, key: str, upload: str) -> None:
        await self.request(f"{key} (give up)", lambda requests, _: requests.abort_parts(key, upload), self.soon())

    @asynccontextmanager
    async def uploading(self, what: str, deadline: float) -> AsyncIterator[None]:
        """ST2."""
        with trio.move_on_at(deadline) as waiting:
            await self._uploads.acquire()
        if waiting.cancelled_caught:
            raise BackendError(f"{self.s3_url.place}: {what}: uploads are so slow that its turn did not come")
        try:
            yield
        finally:
            self._uploads.release()

    def soon(self) -> float:
        return trio.current_time() + self._limits.call_s

    def _other_bytes(self, what: str) -> BackendError:
        return BackendError(f"{self.s3_url.place}: {what}: the store keeps other bytes than were sent: do not trust it")

    def learned(self, conditional: bool) -> None:
        """What a probe found."""
        self._conditional = conditional and self.s3_url.conditional != "no"

    async def request(self, what: str, work: Work[Result], deadline: float, faults: Faults | None = None) -> Result:
        """ST1, ST7. Raises SdsErrors only. `faults`: where to note what went wrong, the last one included."""
        where = f"{self.s3_url.place}: {what}"
        faults = [] if faults is None else faults
        while True:
            left_s = max(0.0, deadline - trio.current_time())
            attempt = partial(work, self._requests, time.monotonic() + left_s)
            try:
                return await in_thread(attempt, self._limiter, where, left_s)
            except SdsError:
                raise
            except Exception as error:
                fault = fault_of(error)
                faults.append(fault)
                delay_s = self._delay_s(fault, sum(before.kind is fault.kind for before in faults))
                if delay_s is None or trio.current_time() + delay_s >= deadline:
                    raise fault.error(where) from error
            if fault.kind is Kind.CREDENTIALS:
                self._requests.reload()
            await trio.sleep(delay_s)

    def _delay_s(self, fault: Fault, tries: int) -> float | None:
        """None: it will not get better."""
        backoff = BACKOFFS.get(fault.kind)
        if backoff is None or tries >= backoff.tries_max:
            return None
        return backoff.delay_s(tries, self._random.random())

    def _put_deadline(self, content: Content) -> float:
        limit_s = self._limits.put_s if len(content.data) >= LARGE_BYTES else self._limits.call_s
        return trio.current_time() + limit_s

    async def _put_once_if(self, key: str, content: Content, condition: dict[str, str], deadline: float) -> Stored:
        faults: Faults = []
        try:
            return await self.request(key, lambda requests, _: requests.put(key, content, condition), deadline, faults)
        except (Exists, Missing) as error:  # Some stores say Missing if what should be replaced is not there.
            raise ConditionFailed(str(error), after_retry=len(faults) > 1) from error

    async def _who_won(self, key: str, content: Content, tag: str | None, deadline: float, refused: Exists) -> str:
        """ST5."""
        try:
            ours = await self.holds(key, content, deadline)
        except Missing as error:
            raise self._unknown(key) from error
        if ours is not None:
            return ours
        if tag is None:  # Whatever became of our try, there is an object now, and it is not ours.
            raise Exists(str(refused)) from refused
        raise self._unknown(key) from refused

    def _unknown(self, key: str) -> BackendError:
        return BackendError(f"{self.s3_url.place}: {key}: an answer was lost: read it to find out who replaced it")

    async def confirm(self, key: str, content: Content, stored: Stored, deadline: float) -> None:
        """ST3."""
        self._an_etag_was_md5 |= stored.confirmed is True
        if stored.confirmed is not False or not self._etags_are_md5:
            return
        if await self.holds(key, content, deadline) is None:
            raise self._other_bytes(key)
        self._etags_are_md5 = self._an_etag_was_md5

    async def _need_conditional(self, key: str) -> None:
        """ST4."""
        async with self._conditional_lock:
            if self._conditional is None:
                self.learned(await conditions_work(self))
        if not self._conditional:
            raise BadInput(f"{self.s3_url.place}: {key}: this store cannot tell who was first: use another for this")


def _page(prefix: str, after: str | None) -> Work[Page]:
    return lambda requests, _: requests.list_page(prefix, after)


def _spelled(tag: str, quoted: bool) -> str:
    bare = tag.strip('"')
    return f'"{bare}"' if quoted else bare
