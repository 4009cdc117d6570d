"""Putting a small object that replaces another one, so that a late duplicate of an older put cannot win (OS1).

  OP1  Each put names the version that it replaces; if somebody else was faster, the new version is looked up.
"""

from sds.core.errors import BackendError, Exists, Missing

from .objects import ObjectStore

WHOLE_LIMIT_BYTES = 256 << 20
TRIES = 5


async def replace_with(store: ObjectStore, name: str, data: bytes, tag: str | None) -> str:
    """The new tag. `tag`: of the version that is likely there; None: not known, or nothing."""
    for _ in range(TRIES):
        try:
            return await store.replace(name, data, tag)
        except Exists:
            try:
                tag = (await store.fetch(name, WHOLE_LIMIT_BYTES)).tag
            except Missing:
                tag = None
    raise BackendError(f"{store.url}: {name}: others replace it all the time; who else uses this pool?")
