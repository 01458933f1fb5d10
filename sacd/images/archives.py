"""Tar and zip archives of image files, read where they lie and within limits."""

import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from sacd.errors import SacdError
from sacd.images.decoding import Unusable

MOST_FILES = 20_000_000  # in an archive; all of ImageNet's 21,841 classes are 14 million
LARGEST_FILE = 2**28  # bytes of an image file
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


@dataclass
class Files:
    """Names of files, a reader of their bytes, and what is not read, with the reason."""

    names: list[str]
    read: Callable[[str], bytes]
    left_out: dict[str, str] = field(default_factory=dict)


def open_archive(source: Path) -> Files:
    """Open a tar or zip; raises `SacdError` where it is damaged, compressed as a whole or huge."""
    with source.open("rb") as file:
        compressed = file.read(8).startswith(COMPRESSED)
    if compressed:
        raise SacdError(
            f"{source}: compressed as a whole, it would be read from its start for every image. "
            f"Unpack it once (mkdir photos; tar -xf {source.name} -C photos) and name the folder."
        )
    return _open_zip(source) if zipfile.is_zipfile(source) else _open_tar(source)


def files_in(archive: tarfile.TarFile, source: Path) -> list[tarfile.TarInfo]:
    """The regular files of an open tar; raises `SacdError` where it is damaged or cut off.

    tarfile takes damage for the end, so we look whether the zeros that close a tar follow.
    """
    members = []
    for count, member in enumerate(archive):
        require_few(count, source)
        if member.isfile():
            members.append(member)
    assert archive.fileobj is not None  # open for reading
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise SacdError(
            f"{source}: damaged or cut off after {len(members)} files; get or pack it again."
        )
    return members


def require_few(count: int, source: Path) -> None:
    if count >= MOST_FILES:
        raise SacdError(f"{source}: more than {MOST_FILES} files; give a part of it.")


def require_small(size: int) -> None:
    """Raise `Unusable` for a file that no image is as large as."""
    if size > LARGEST_FILE:
        raise Unusable(f"too large: {size} bytes, at most {LARGEST_FILE} are read")


def _open_tar(source: Path) -> Files:
    archive = tarfile.open(source, "r:")  # noqa: SIM115 (stays open for `read`)
    members = {member.name: member for member in files_in(archive, source)}
    left_out = {
        other.name: f"a link to {other.linkname}" if other.linkname else "no regular file"
        for other in archive.getmembers()
        if not (other.isfile() or other.isdir())
    }
    lock = Lock()  # a tar has one place at which it is read

    def read(name: str) -> bytes:
        require_small(members[name].size)
        file = archive.extractfile(members[name])
        assert file is not None  # only regular files are members
        with lock:
            return file.read()

    return Files(list(members), read, left_out)


def _open_zip(source: Path) -> Files:
    pack = zipfile.ZipFile(source)  # may be read by several threads
    require_few(len(pack.filelist) - 1, source)
    # Windows' own packers have written backslashes.
    members = {i.filename.replace("\\", "/"): i for i in pack.filelist if not i.is_dir()}

    def read(name: str) -> bytes:
        info = members[name]
        require_small(info.file_size)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unusable("packed by a method other than deflate")  # these unpack without bounds
        with pack.open(info) as file:
            return file.read(info.file_size)

    return Files(list(members), read)
