"""Archives from elsewhere, read safely. Example: for member in zip_members(archive): archive.read(member)

Nothing is ever unpacked to the disk: members are read into memory one by one, so that no name in an archive can reach
a file. Every member is checked first all the same, and one that no data set would contain rejects the whole archive.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath

# Ten times what the largest data set here holds (CINIC-10: 270,000 files, 0.8 GB)
MOST_MEMBERS = 2_000_000
MOST_BYTES = 8 * 2**30
MOST_MEMBER_BYTES = 256 * 2**20  # the largest needed has 154 MB (CIFAR-100)
MOST_RATIO = 1_000  # unpacked to packed bytes of a zip's member: about as much as deflate can do


class BadArchive(ValueError):
    """An archive with a member that no data set would contain; the message names it."""


def zip_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of a zip archive, in its order. Raises BadArchive."""
    check = _Check()
    for info in archive.infolist():
        kind = (info.external_attr >> 16) & 0o170000  # Unix file type; 0 if another system packed it
        if kind not in (0, 0o100000, 0o040000):
            raise BadArchive(f"'{info.filename}' is a link or a device")
        if info.flag_bits & 1:
            raise BadArchive(f"'{info.filename}' is encrypted")
        if info.file_size > MOST_RATIO * max(info.compress_size, 1):
            raise BadArchive(f"'{info.filename}' would unpack to {info.file_size:,} bytes from {info.compress_size:,}")
        check.member(info.filename, info.file_size)
    return [info for info in archive.infolist() if not info.is_dir()]


def tar_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of a tar archive in its order, so that a compressed one is read only once. Raises BadArchive."""
    check = _Check()
    for info in archive:
        if not (info.isreg() or info.isdir()):
            raise BadArchive(f"'{info.name}' is a link or a device")
        check.member(info.name, info.size)
        if info.isreg():
            yield info


class _Check:
    """Names and total size of an archive's members."""

    def __init__(self) -> None:
        self.seen, self.bytes = set[str](), 0

    def member(self, name: str, size: int) -> None:
        """Raises BadArchive."""
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
            raise BadArchive(f"'{name}' would leave its folder")
        self.bytes += size
        if not 0 <= size <= MOST_MEMBER_BYTES or self.bytes > MOST_BYTES:
            raise BadArchive(f"'{name}' is too large: {size:,} bytes, {self.bytes:,} with those before it")
        if str(posix) in self.seen and not name.endswith("/"):
            raise BadArchive(f"'{name}' occurs twice")
        self.seen.add(str(posix))
        if len(self.seen) > MOST_MEMBERS:
            raise BadArchive(f"it has more than {MOST_MEMBERS:,} members")
