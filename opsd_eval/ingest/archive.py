"""Read members of a zip archive into memory, zstandard members (method 93) included; nothing is ever extracted."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType

ZSTANDARD = 93
MEMBER_LIMIT = 1024 * 1024 * 1024
_LOCAL_HEADER = struct.Struct("<26x2H")  # 26 bytes we do not need, lengths of name and extra


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
        try:  # zipfile gives no more bytes than were claimed, and checks them
            return self._zstandard(info) if info.compress_type == ZSTANDARD else self.zip.read(name)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, struct.error) as error:
            raise ValueError(f"{self.path}!{name}: {error}") from None

    def _zstandard(self, info: zipfile.ZipInfo) -> bytes:
        from pyarrow import BufferReader, CompressedInputStream

        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            file.seek(name_length + extra_length, 1)
            packed = file.read(info.compress_size)
        data = bytearray()
        with CompressedInputStream(BufferReader(packed), "zstd") as stream:
            while len(data) <= info.file_size and (block := stream.read(1 << 20)):
                data += block
        if len(data) > info.file_size:
            raise zipfile.BadZipFile(f"unpacks to more than the {info.file_size} bytes that it claims")
        if zlib.crc32(data) != info.CRC:
            raise zipfile.BadZipFile("damaged (checksum differs)")
        return bytes(data)
