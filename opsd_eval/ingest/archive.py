"""Read members of a zip archive into memory, zstandard members (method 93) included; nothing is ever extracted."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType

ZSTANDARD = 93
MEMBER_LIMIT = 1024 * 1024 * 1024
_LOCAL_HEADER = struct.Struct("<4s22x2H")  # signature, 22 bytes we do not need, lengths of name and extra


class Archive:
    """A zip file opened for reading; ``with Archive(path) as archive: archive.read(name)``."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path}: not a whole zip archive: {error}") from None

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.zip.close()

    def names(self) -> list[str]:
        """Names of all members, in archive order."""
        return self.zip.namelist()

    def read(self, name: str) -> bytes:
        """The bytes of a member; one that unpacks to more than 1 GiB, is damaged, or is encrypted raises."""
        info = self.zip.getinfo(name)
        if info.file_size > MEMBER_LIMIT:
            raise ValueError(f"{self.path}!{name}: claims {info.file_size} bytes, more than {MEMBER_LIMIT}")
        try:
            data = self._zstandard(info) if info.compress_type == ZSTANDARD else self._plain(name)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, struct.error) as error:
            raise ValueError(f"{self.path}!{name}: {error}") from None
        if len(data) > MEMBER_LIMIT:
            raise ValueError(f"{self.path}!{name}: unpacks to more than {MEMBER_LIMIT} bytes")
        if zlib.crc32(data) != info.CRC:
            raise ValueError(f"{self.path}!{name}: damaged (checksum differs)")
        return data

    def _plain(self, name: str) -> bytes:
        with self.zip.open(name) as member:
            return member.read(MEMBER_LIMIT + 1)

    def _zstandard(self, info: zipfile.ZipInfo) -> bytes:
        from pyarrow import BufferReader, CompressedInputStream

        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if signature != b"PK\x03\x04":
                raise zipfile.BadZipFile("no local header where the directory points")
            file.seek(name_length + extra_length, 1)
            packed = file.read(info.compress_size)
        parts, size = [], 0
        with CompressedInputStream(BufferReader(packed), "zstd") as stream:
            while size <= MEMBER_LIMIT and (block := stream.read(1 << 20)):
                parts.append(block)
                size += len(block)
        return b"".join(parts)
