"""The layer blob: one header for both codecs, `tile` and `zstd` (docs/FORMAT.md part 3).

Any bytes give a Layer or a FormatError with the position; nothing of the payload is decoded here.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from dataclasses import dataclass

from ._native import BF16, DTYPE_NAMES, F16, I8, I16, ITEMSIZE
from .errors import FormatError

MAGIC = b"CLLB"
VERSION = 1
HEADER_BYTES = 64
TILE, ZSTD = 1, 2
CODECS = {"tile": TILE, "zstd": ZSTD}
CODEC_NAMES = {v: k for k, v in CODECS.items()}
FLAG_SCALES = 1  # zstd: a float32 for each row stands before the table of chunks
FRAME_ALIGN = 16  # of each part of a zstd payload: GPU decoders want their input aligned
MAX_CHUNK = 16 << 20
# nvCOMP decodes a chunk by one warp, so small chunks keep a GPU busy; of 16 KiB they cost at most 0.4 % of the bytes against 64 KiB.
DEFAULT_CHUNK = 16 << 10

_HEADER = struct.Struct("<4sBBBBIIQIIII24s")
assert _HEADER.size == HEADER_BYTES


def align(n: int) -> int:
    return -(-n // FRAME_ALIGN) * FRAME_ALIGN


@dataclass(frozen=True)
class Layer:
    """A parsed blob. `data` is the caller's memory; positions count from its start."""

    data: memoryview
    codec: int
    dtype: int  # of the elements: I8, I16; BF16 or F16 for lossless tiles
    rows: int
    cols: int
    payload_bytes: int
    payload_crc: int
    chunk_bytes: int  # zstd: decoded bytes of a chunk, but of the last
    frames: tuple[tuple[int, int], ...]  # zstd: position and length of each chunk's frame
    scales_at: int | None  # zstd: position of the row scales

    @property
    def payload(self) -> memoryview:
        return self.data[HEADER_BYTES : HEADER_BYTES + self.payload_bytes]

    @property
    def decoded_bytes(self) -> int:
        return self.rows * self.cols * ITEMSIZE[self.dtype]

    def chunk_length(self, index: int) -> int:
        """Decoded bytes of chunk `index`."""
        return min(self.chunk_bytes, self.decoded_bytes - index * self.chunk_bytes)

    def verify(self) -> None:
        """Compares the payload with its checksum; FormatError if it differs."""
        if zlib.crc32(self.payload) != self.payload_crc:
            raise FormatError("layer blob: the payload is not what its checksum says; it was damaged", HEADER_BYTES)


def _bad(what: str, position: int) -> FormatError:
    return FormatError(f"layer blob: {what}", position)


@contextlib.contextmanager
def positions_of_payload():
    """Errors of what reads a payload by itself count from its start: here they are made to count from the layer blob's."""
    try:
        yield
    except FormatError as e:
        raise FormatError(str(e), None if e.position is None else e.position + HEADER_BYTES) from None


def write(codec: int, dtype: int, rows: int, cols: int, payload: bytes, *, chunk_bytes: int = 0, chunks: int = 0, flags: int = 0) -> bytes:
    def header(crc: int) -> bytes:
        return _HEADER.pack(
            MAGIC, VERSION, codec, dtype, flags, rows, cols, len(payload), chunk_bytes, chunks, zlib.crc32(payload), crc, bytes(24)
        )

    return header(zlib.crc32(header(0))) + payload


def zstd_payload(frames: list[bytes], scales: bytes = b"") -> bytes:
    """Scales, table of frame lengths, frames: each at a multiple of 16 bytes."""
    table = struct.pack(f"<{len(frames)}I", *map(len, frames))
    return b"".join(part + bytes(align(len(part)) - len(part)) for part in [scales, table, *frames])


def _check_padding(data: memoryview, end: int) -> None:
    """What lies between a part that ends at `end` and the next multiple of 16."""
    start = end - HEADER_BYTES
    for at in range(end, HEADER_BYTES + align(start)):
        if data[at]:
            raise _bad("padding is not zero", at)


def _parse_zstd(data: memoryview, rows: int, cols: int, payload: int, chunk_bytes: int, chunks: int, flags: int):
    if not 1 <= chunk_bytes <= MAX_CHUNK:
        raise _bad(f"chunks of {chunk_bytes} bytes; they have 1 to {MAX_CHUNK}", 24)
    if chunks != -(-rows * cols // chunk_bytes):
        raise _bad(f"{chunks} chunks of {chunk_bytes} bytes do not make {rows} x {cols} integers", 28)
    at = HEADER_BYTES
    end = HEADER_BYTES + payload
    scales_at = None
    if flags & FLAG_SCALES:
        scales_at = at
        at += align(4 * rows)
    table_at = at
    at += align(4 * chunks)
    if at > end:
        raise _bad("the payload ends inside of its table of chunks", min(end, len(data)))
    if scales_at is not None:
        for row, scale in enumerate(data[scales_at : scales_at + 4 * rows].cast("f")):
            if not math.isfinite(scale):
                raise _bad(f"the scale of row {row} is not finite", scales_at + 4 * row)
        _check_padding(data, scales_at + 4 * rows)
    _check_padding(data, table_at + 4 * chunks)
    frames = []
    for i, (length,) in enumerate(struct.iter_unpack("<I", data[table_at : table_at + 4 * chunks])):
        if not length or at + align(length) > end:
            raise _bad(f"chunk {i} of {length} bytes does not lie inside of the payload", table_at + 4 * i)
        _check_padding(data, at + length)
        frames.append((at, length))
        at += align(length)
    if at != end:
        raise _bad(f"{end - at} bytes follow the last chunk", at)
    return tuple(frames), scales_at


def parse(blob) -> Layer:
    """Reads the header and, of codec zstd, the table of chunks. `blob` (bytes-like) is kept, not copied."""
    try:
        data = memoryview(blob).cast("B")
    except TypeError as e:
        raise _bad(f"contiguous bytes are wanted, not {type(blob).__name__} ({e})", 0) from None
    if len(data) < HEADER_BYTES:
        raise _bad(f"{len(data)} bytes; the header alone has {HEADER_BYTES}", len(data))
    magic, version, codec, dtype, flags, rows, cols, payload, chunk_bytes, chunks, payload_crc, crc, reserved = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _bad(f"it begins with {magic!r}, not {MAGIC!r}", 0)
    if version != VERSION:
        raise _bad(f"version {version}; this package reads version {VERSION}", 4)
    if zlib.crc32(data[:36].tobytes() + bytes(4) + data[40:HEADER_BYTES].tobytes()) != crc:
        raise _bad("the header is not what its checksum says; it was damaged", 36)
    if codec not in CODEC_NAMES:
        raise _bad(f"unknown codec {codec}", 5)
    if dtype not in ((I8,) if codec == ZSTD else (I8, I16, BF16, F16)):
        raise _bad(f"codec {CODEC_NAMES[codec]} has no elements of type {DTYPE_NAMES.get(dtype, dtype)}", 6)
    if flags & ~(FLAG_SCALES if codec == ZSTD else 0):
        raise _bad(f"unknown flags {flags}", 7)
    if not rows or not cols:
        raise _bad("a matrix has at least one row and one column", 8)
    if reserved != bytes(24):
        raise _bad("reserved bytes are not zero", 40)
    if payload > len(data) - HEADER_BYTES:
        raise _bad(f"a payload of {payload} bytes, but {len(data) - HEADER_BYTES} follow the header: it was cut short", len(data))
    frames: tuple[tuple[int, int], ...] = ()
    scales_at = None
    if codec == ZSTD:
        frames, scales_at = _parse_zstd(data, rows, cols, payload, chunk_bytes, chunks, flags)
    elif chunk_bytes or chunks:
        raise _bad("codec tile has no chunks", 24)
    return Layer(data, codec, dtype, rows, cols, payload, payload_crc, chunk_bytes, frames, scales_at)
