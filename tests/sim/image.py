"""Content of a simulated file: sparse 4 KiB pages, shared between copies until one of them changes.

  I1  A page that is not in the dict is zeros.
  I2  `pages` of a shared image is never changed in place: the changer takes its own dict first.
"""

from collections.abc import Iterable

PAGE = 4096
SECTOR = 512
ZERO_PAGE = bytes(PAGE)


class Image:
    __slots__ = ("_shared", "pages", "size")

    def __init__(self, size: int, pages: dict[int, bytes] | None = None) -> None:
        self.size = size
        self.pages = {} if pages is None else pages
        self._shared = False

    def share(self) -> "Image":
        """A copy, for the price of one object."""
        self._shared = True
        twin = Image(self.size, self.pages)
        twin._shared = True
        return twin

    def write(self, pages: Iterable[tuple[int, bytes]]) -> None:
        self._own()
        self.pages.update(pages)

    def cut(self, size: int) -> None:
        self._own()
        self.size = size
        for index in [index for index in self.pages if index * PAGE >= size]:
            del self.pages[index]

    def page(self, index: int) -> bytes:
        return self.pages.get(index, ZERO_PAGE)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range inside the size."""
        assert offset >= 0
        assert offset + length <= self.size
        if not length:
            return b""
        first, last = offset // PAGE, (offset + length - 1) // PAGE
        whole = b"".join([self.page(index) for index in range(first, last + 1)])
        start = offset - first * PAGE
        return whole[start : start + length]

    def _own(self) -> None:
        if self._shared:
            self.pages = dict(self.pages)
            self._shared = False


def image_of(data: bytes) -> Image:
    """An image of any size; the last page is filled up with zeros."""
    return Image(len(data), dict(pages_of(0, data)))


def pages_of(offset: int, data: bytes) -> tuple[tuple[int, bytes], ...]:
    first = offset // PAGE
    return tuple(
        (first + at // PAGE, data[at : at + PAGE].ljust(PAGE, b"\0")) for at in range(0, len(data), PAGE)
    )


def with_sectors(base: bytes, page: bytes, sectors: Iterable[int]) -> bytes:
    """`base` with these of its eight sectors taken from `page`."""
    out = bytearray(base)
    for sector in sectors:
        out[sector * SECTOR : (sector + 1) * SECTOR] = page[sector * SECTOR : (sector + 1) * SECTOR]
    return bytes(out)
