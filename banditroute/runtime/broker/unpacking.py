"""How large a compressed batch can become: bounded before memory is taken for it."""

from __future__ import annotations

import struct
import zlib
from typing import Final

MOST_UNPACKED: Final = 64 << 20  # bytes of one batch
_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4
_GZIP_RATIO: Final = 1032  # no deflate stream unpacks to more (zlib, "Technical Details")
_PIECE: Final = 1 << 20
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = 16
_LZ4_MAGIC: Final = 0x184D2204
_ZSTD_MAGIC: Final = 0xFD2FB528
_ZSTD_BLOCK: Final = 1 << 17  # bytes of an unpacked block, at most (RFC 8878, 3.1.1.2.4)
_WORD: Final = struct.Struct("<I")
_BIG: Final = struct.Struct(">i")


class TooLarge(Exception):
    """A batch unpacks to more than is taken; its only argument says so."""


def check_unpacked_size(codec: int, data: memoryview) -> None:
    """Refuse a compressed batch that would unpack to more than `MOST_UNPACKED` bytes.

    Parameters
    ----------
    codec : int
        Kafka's number of the codec; 0 is none.
    data : memoryview
        The packed records.

    Raises
    ------
    TooLarge
        If it would, or if its frame does not say how large it is.

    Notes
    -----
    zstd and LZ4 are read block by block (RFC 8878, 3.1; LZ4 frame format 1.6), without unpacking; snappy says its size;
    gzip is unpacked piece by piece where the packed size alone does not bound it.
    """
    try:
        too_large = _exceeds(codec, data)
    except (struct.error, IndexError, zlib.error):
        return  # what is no frame at all is for the parser to refuse
    if too_large:
        raise TooLarge(f"it unpacks to more than {MOST_UNPACKED >> 20} MiB")


def _exceeds(codec: int, data: memoryview) -> bool:
    if codec == _GZIP:
        return len(data) * _GZIP_RATIO > MOST_UNPACKED and _gzip_exceeds(data)
    if codec == _SNAPPY:
        return _snappy_size(data) > MOST_UNPACKED
    if codec == _LZ4:
        return _lz4_bound(data) > MOST_UNPACKED
    return codec == _ZSTD and _zstd_bound(data) > MOST_UNPACKED


def _gzip_exceeds(data: memoryview) -> bool:
    unpacker, size, packed = zlib.decompressobj(zlib.MAX_WBITS | 16), 0, bytes(data)
    while packed and not unpacker.eof:
        size += len(unpacker.decompress(packed, _PIECE))
        packed = unpacker.unconsumed_tail
        if size > MOST_UNPACKED:
            return True
    return False


def _snappy_size(data: memoryview) -> int:
    if bytes(data[: len(_XERIAL)]) != _XERIAL:
        return _preamble(data)
    size, at = 0, _XERIAL_HEADER
    while at < len(data):
        packed = _BIG.unpack_from(data, at)[0]
        if packed < 0:
            raise struct.error
        size += _preamble(data[at + 4 :])
        at += 4 + packed
    return size


def _preamble(data: memoryview) -> int:
    """Return the size that a raw snappy stream begins with: a varint."""
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return size
        shift += 7
    raise struct.error


def _lz4_bound(data: memoryview) -> int:
    if _WORD.unpack_from(data)[0] != _LZ4_MAGIC:
        raise struct.error
    flags, sizes = data[4], data[5]
    block = 1 << (8 + 2 * (sizes >> 4 & 0x07))
    at = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
    checksum = 4 if flags & 0x10 else 0
    bound = 0
    while (word := _WORD.unpack_from(data, at)[0]) != 0:
        packed = word & 0x7FFFFFFF
        bound += packed if word >> 31 else min(block, 255 * packed)
        at += 4 + packed + checksum
        if bound > MOST_UNPACKED:
            break
    return bound


def _zstd_bound(data: memoryview) -> int:
    bound = at = 0
    while at + 4 <= len(data) and bound <= MOST_UNPACKED:
        magic = _WORD.unpack_from(data, at)[0]
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # a frame to be skipped
            at += 8 + int(_WORD.unpack_from(data, at + 4)[0])
            continue
        if magic != _ZSTD_MAGIC:
            raise struct.error
        at += 4
        descriptor = data[at]
        single, dictionary = descriptor >> 5 & 1, descriptor & 3
        content = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        at += 1 + (0 if single else 1) + (0, 1, 2, 4)[dictionary] + content
        last = 0
        while not last and bound <= MOST_UNPACKED:
            header = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            last, kind, size = header & 1, header >> 1 & 3, header >> 3
            bound += size if kind in (0, 1) else _ZSTD_BLOCK
            at += 3 + (1 if kind == 1 else size)
        at += 4 if descriptor & 4 else 0
    return bound
