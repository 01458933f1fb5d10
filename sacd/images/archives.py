"""Tar archives, read to their true end."""

import tarfile
from pathlib import Path

from sacd.errors import SacdError


def files_in(archive: tarfile.TarFile, source: Path) -> list[tarfile.TarInfo]:
    """The regular files of an open tar; raises `SacdError` where it is damaged or cut off.

    tarfile takes damage for the end, so we look whether the zeros that close a tar follow.
    """
    members = [member for member in archive if member.isfile()]
    assert archive.fileobj is not None  # open for reading
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise SacdError(
            f"{source}: damaged or cut off after {len(members)} files; get or pack it again."
        )
    return members
