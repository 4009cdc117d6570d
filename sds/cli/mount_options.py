"""The `-o` of `sds mount` and of mount(8): words with commas between. What they mean is in fuse/options.py; here are
those that are not about the mount itself.

| words                            | meaning                                              |
|----------------------------------|------------------------------------------------------|
| home=DIR                         | as --home: for a line in fstab                       |
| user=NAME, uhelper=..., loud, ... | mount(8) adds them for its helpers; nothing to us    |

  MO1  The last word wins, as with mount(8). A word that is not known is refused: to ignore one would be to promise
       what is not kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fuse.options import Options, parsed
from sds.core.errors import BadInput
from sds.core.names import Target
from sds.core.units import shown

_FOR_OTHERS: Final = frozenset(("loud", "silent", "noowner", "nogroup"))
_FOR_OTHERS_PREFIXES: Final = ("user=", "uhelper=", "helper=")


@dataclass(frozen=True, slots=True)
class MountOptions:
    words: tuple[str, ...]
    """For fuse.options."""
    home: str | None

    def for_target(self, target: Target) -> Options:
        return parsed(Options(str(target), read_only=target.snapshot is not None), self._words_of(target))

    def _words_of(self, target: Target) -> list[str]:
        """A snapshot is read only, whatever mount(8) says by default."""
        return [word for word in self.words if target.snapshot is None or word != "rw"]


def parse_options(texts: Iterable[str]) -> MountOptions:
    """Each text is the argument of one `-o`. BadInput for a word that makes no sense."""
    words, home = [], None
    for word in (word for text in texts for word in text.split(",") if word):
        if word.startswith("home="):
            home = _home(word)
        elif word == "remount":
            raise BadInput("a mount cannot be changed: unmount it, then mount it with the new options")
        elif word not in _FOR_OTHERS and not word.startswith(_FOR_OTHERS_PREFIXES):
            words.append(word)
    parsed(Options("none"), words)
    return MountOptions(tuple(words), home)


def _home(word: str) -> str:
    path = word.removeprefix("home=")
    if not path.startswith("/"):
        raise BadInput(f"mount option {shown(word)}: write an absolute path")
    return path
