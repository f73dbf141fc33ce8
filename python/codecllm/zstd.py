"""Codec `zstd`: integers in chunks, each a Zstandard frame; libzstd on the CPU, nvCOMP on the GPU. Both are loaded when first needed."""

from __future__ import annotations

import concurrent.futures
import ctypes
import ctypes.util
import functools
import os
import threading
import weakref
from ctypes import CDLL, Structure, byref, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_ulonglong, c_void_p

import numpy as np

from . import _native, blob
from ._native import I8
from .errors import ArgumentError, DeviceError, FormatError, OutOfMemory, Unsupported
from .gpu import DeviceTensor, Gpu
from .tensor import address, new_array

_lock = threading.Lock()
_zstd: CDLL | None = None

# ---- libzstd ----


def libzstd() -> CDLL:
    """The wheel's own library, or the system's."""
    global _zstd
    with _lock:
        if _zstd is None:
            own = os.path.join(_native.library_folder(), "libzstd.so.1")
            places = [p for p in (own if os.path.exists(own) else None, "libzstd.so.1", ctypes.util.find_library("zstd")) if p]
            for place in places:
                try:
                    found = CDLL(place)
                    break
                except OSError as e:
                    reason = e
            else:
                raise Unsupported(f"codec zstd needs libzstd.so.1: {reason}")
            for name, result, arguments in (
                ("ZSTD_compressBound", c_size_t, [c_size_t]),
                ("ZSTD_compress", c_size_t, [c_void_p, c_size_t, c_void_p, c_size_t, c_int]),
                ("ZSTD_createDCtx", c_void_p, []),
                ("ZSTD_freeDCtx", c_size_t, [c_void_p]),
                ("ZSTD_decompressDCtx", c_size_t, [c_void_p, c_void_p, c_size_t, c_void_p, c_size_t]),
                ("ZSTD_isError", c_uint, [c_size_t]),
                ("ZSTD_getErrorName", c_char_p, [c_size_t]),
                ("ZSTD_getFrameContentSize", c_ulonglong, [c_void_p, c_size_t]),
                ("ZSTD_findFrameCompressedSize", c_size_t, [c_void_p, c_size_t]),
            ):
                f = getattr(found, name)
                f.restype, f.argtypes = result, arguments
            _zstd = found
        return _zstd


class _Context:
    """A decoder of libzstd, for one thread at a time; freed with its last reference."""

    def __init__(self):
        z = libzstd()
        self.pointer = z.ZSTD_createDCtx()
        if not self.pointer:
            raise OutOfMemory("no memory for a zstd decoder")
        # not when the interpreter ends: a thread may be decoding with it still
        weakref.finalize(self, z.ZSTD_freeDCtx, self.pointer).atexit = False


_contexts = threading.local()


def _context() -> _Context:
    """This thread's: a new one for every chunk would have its memory mapped and unmapped each time."""
    if not hasattr(_contexts, "own"):
        _contexts.own = _Context()
    return _contexts.own


def encode(q: np.ndarray, scales: np.ndarray | None, level: int, chunk_bytes: int) -> bytes:
    z = libzstd()
    if not 1 <= chunk_bytes <= blob.MAX_CHUNK:
        raise ArgumentError(f"chunk_bytes is 1 to {blob.MAX_CHUNK}, not {chunk_bytes}")
    data = q.reshape(-1)
    frames = []
    out = np.empty(z.ZSTD_compressBound(min(chunk_bytes, data.nbytes)), np.uint8)
    for at in range(0, data.nbytes, chunk_bytes):
        part = data[at : at + chunk_bytes]
        size = z.ZSTD_compress(out.ctypes.data, out.nbytes, part.ctypes.data, part.nbytes, level)
        if z.ZSTD_isError(size):
            raise ArgumentError(f"zstd at level {level}: {z.ZSTD_getErrorName(size).decode()}")
        frames.append(out[:size].tobytes())
    payload = blob.zstd_payload(frames, b"" if scales is None else scales.tobytes())
    return blob.write(
        blob.ZSTD, I8, *q.shape, payload, chunk_bytes=chunk_bytes, chunks=len(frames), flags=0 if scales is None else blob.FLAG_SCALES
    )


def scales_of(layer: blob.Layer) -> np.ndarray | None:
    """The row scales it carries, float32."""
    if layer.scales_at is None:
        return None
    return np.frombuffer(layer.data, np.float32, layer.rows, layer.scales_at).copy()


def check_frames(layer: blob.Layer) -> None:
    """Each frame says its length, and that is the chunk's: no decoder is asked for more room than it has."""
    z = libzstd()
    base = address(layer.data)
    for i, (at, length) in enumerate(layer.frames):
        whole = z.ZSTD_findFrameCompressedSize(base + at, length)
        if z.ZSTD_isError(whole) or whole != length or z.ZSTD_getFrameContentSize(base + at, length) != layer.chunk_length(i):
            raise FormatError(f"layer blob: chunk {i} is no zstd frame of {layer.chunk_length(i)} bytes", at)


def decode(layer: blob.Layer, out: np.ndarray | None = None, threads: int = 0) -> np.ndarray:
    """rows x cols int8 on the CPU. threads: 0 = one per core."""
    z = libzstd()
    check_frames(layer)  # before room is made for what a header says
    if out is None:
        out = new_array((layer.rows, layer.cols), np.int8)
    base, to = address(layer.data), out.ctypes.data

    def some(first: int, end: int) -> None:
        context = _context()
        for i in range(first, end):
            at, length = layer.frames[i]
            want = layer.chunk_length(i)
            size = z.ZSTD_decompressDCtx(context.pointer, to + i * layer.chunk_bytes, want, base + at, length)
            if z.ZSTD_isError(size) or size != want:
                reason = z.ZSTD_getErrorName(size).decode() if z.ZSTD_isError(size) else f"{size} bytes instead of {want}"
                raise FormatError(f"layer blob: chunk {i}: {reason}", at)

    count = len(layer.frames)
    workers = min(threads or len(os.sched_getaffinity(0)), count)
    if workers <= 1:
        some(0, count)
    else:
        parts = [_threads(workers).submit(some, count * w // workers, count * (w + 1) // workers) for w in range(workers)]
        for part in concurrent.futures.wait(parts).done:
            part.result()
    return out


@functools.lru_cache(maxsize=1)
def _threads(workers: int) -> concurrent.futures.ThreadPoolExecutor:
    """Kept from call to call: starting threads takes longer than decoding a small layer."""
    return concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="codecllm-zstd")


os.register_at_fork(after_in_child=_threads.cache_clear)  # threads stay behind in the parent

# ---- nvCOMP ----


class _Options(Structure):
    """nvcompBatchedZstdDecompressOpts_t of nvCOMP 5 and later; zeros are the defaults."""

    _fields_ = [("backend", c_int), ("reserved", ctypes.c_char * 60)]


class _Properties(Structure):
    _fields_ = [("version", c_uint32), ("cudart_version", c_uint32)]


_nvcomp: CDLL | None = None


def _nvcomp_places() -> list[str]:
    named = os.environ.get("CODECLLM_NVCOMP")
    if named:
        return [named]
    found = _native.in_wheels(*(f"nvidia/{package}/{lib}libnvcomp.so.[56]" for package in ("libnvcomp", "nvcomp") for lib in ("lib64/", "lib/", "")))
    return found + ["libnvcomp.so.6", "libnvcomp.so.5"]


def nvcomp() -> CDLL:
    """nvCOMP 5 or 6, from CODECLLM_NVCOMP (a file), its wheel (nvidia-libnvcomp-cu13), or where the system looks. Raises Unsupported."""
    global _nvcomp
    with _lock:
        if _nvcomp is None:
            reasons = []
            for place in _nvcomp_places():
                try:
                    found = CDLL(place)
                    break
                except OSError as e:
                    reasons.append(str(e))
            else:
                raise Unsupported(
                    "codec zstd on a GPU needs nvCOMP: " + "; ".join(reasons) + ". pip install nvidia-libnvcomp-cu13 brings it"
                )
            p = _Properties()
            found.nvcompGetProperties.argtypes = [ctypes.POINTER(_Properties)]
            # 5.2.0 is 5200: major * 1000 + minor * 100 + patch
            if found.nvcompGetProperties(byref(p)) or not 5000 <= p.version < 7000:
                raise Unsupported(f"{found._name} is nvCOMP {p.version / 1000:.1f}; 5 or 6 is wanted")
            f = found.nvcompBatchedZstdDecompressGetTempSizeAsync
            f.argtypes = [c_size_t, c_size_t, _Options, ctypes.POINTER(c_size_t), c_size_t]
            f = found.nvcompBatchedZstdDecompressAsync
            f.argtypes = [c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, _Options, c_void_p, c_void_p]
            _nvcomp = found
        return _nvcomp


def _status_text(status: int) -> str:
    try:
        f = nvcomp().nvcompGetStatusString
        f.restype, f.argtypes = c_char_p, [c_int]
        return f(status).decode()
    except (AttributeError, UnicodeDecodeError):
        return f"status {status}"


class GpuZstd:
    """A layer blob in device memory, still compressed; freed with its last reference. device_bytes: what it takes there.

    nvCOMP trusts its input. So the checksum and what every frame says of its length are verified here, before anything is uploaded; a blob
    that was made to harm is not something a checksum stops.
    """

    natural_dtype = "int8"

    def __init__(self, gpu: Gpu, layer: blob.Layer):
        nvcomp()
        if len(layer.frames) > 1 and layer.chunk_bytes % blob.FRAME_ALIGN:
            raise Unsupported(f"nvCOMP wants chunks of a multiple of {blob.FRAME_ALIGN} bytes, not of {layer.chunk_bytes}")
        layer.verify()
        check_frames(layer)
        self.gpu, self.rows, self.cols = gpu, layer.rows, layer.cols
        first = layer.frames[0][0] // blob.FRAME_ALIGN * blob.FRAME_ALIGN
        body = np.frombuffer(layer.data, np.uint8)[first : blob.HEADER_BYTES + layer.payload_bytes]
        self._memory = gpu.buffer(1, body.size, "int8", stream=0)
        self._memory.write(body)
        gpu.check(0)  # any stream may read it from now on
        starts = np.array([at for at, _ in layer.frames], np.uint64)
        self._pointers = starts + np.uint64(self._memory.data_ptr) - np.uint64(first)
        self._lengths = np.array([length for _, length in layer.frames], np.uint64)
        self._decoded = np.array([layer.chunk_length(i) for i in range(len(layer.frames))], np.uint64)
        self._offsets = np.arange(len(layer.frames), dtype=np.uint64) * np.uint64(layer.chunk_bytes)
        self.chunk_bytes = layer.chunk_bytes
        self.device_bytes = self._memory.nbytes

    def decode(self, dtype="int8", stream: int | None = None) -> DeviceTensor:
        """int8 in new device memory. Corrupt chunks are told by ZstdBatch.check, which this waits for."""
        if dtype != "int8":
            raise ArgumentError("codec zstd decodes to int8")
        out = self.gpu.buffer(self.rows, self.cols, "int8", stream)
        batch = ZstdBatch([self], [out.data_ptr], out._stream)
        batch.run()
        batch.check()
        return out


class ZstdBatch:
    """The chunks of several matrices as one nvCOMP call, with its tables in device memory; may be run again and again on its stream.

    matrices: of one GPU; places: a device address for each, of rows * cols bytes.
    """

    def __init__(self, matrices: list[GpuZstd], places: list[int], stream: int):
        gpu = self.gpu = matrices[0].gpu
        self._stream, self._matrices = stream, matrices
        out = [m._offsets + np.uint64(place) for m, place in zip(matrices, places, strict=True)]
        decoded = np.concatenate([m._decoded for m in matrices])
        count = self._count = decoded.size
        tables = [np.concatenate([m._pointers for m in matrices]), np.concatenate([m._lengths for m in matrices]), decoded, np.concatenate(out)]
        temp = c_size_t()
        status = nvcomp().nvcompBatchedZstdDecompressGetTempSizeAsync(
            count, max(m.chunk_bytes for m in matrices), _Options(), byref(temp), int(decoded.sum())
        )
        if status:
            raise DeviceError(f"nvCOMP: how much memory zstd needs: {_status_text(status)}")
        # four tables, then what comes back: lengths (uint64) and statuses (int32)
        self._tables = gpu.buffer(1, 8 * 4 * count, "int8", stream)
        self._tables.write(np.concatenate(tables).view(np.int8))
        self._results = gpu.buffer(1, 12 * count, "int8", stream)
        self._temp = self._scratch(max(temp.value, 1))
        self._wanted = decoded

    _scratches: weakref.WeakValueDictionary = weakref.WeakValueDictionary()

    def _scratch(self, nbytes: int) -> DeviceTensor:
        """What nvCOMP works in: batches of one stream run one after the other, and share it."""
        key = self.gpu.index, self._stream
        found = self._scratches.get(key)
        if found is None or found.nbytes < nbytes:
            found = self._scratches[key] = self.gpu.buffer(1, nbytes, "int8", self._stream)
        return found

    def run(self) -> None:
        """Queues the decoding; nothing is waited for."""
        at, step = self._tables.data_ptr, 8 * self._count
        status = nvcomp().nvcompBatchedZstdDecompressAsync(
            at, at + step, at + 2 * step, self._results.data_ptr, self._count, self._temp.data_ptr, self._temp.nbytes, at + 3 * step, _Options(),
            self._results.data_ptr + step, self._stream,
        )
        if status:
            raise DeviceError(f"nvCOMP: zstd: {_status_text(status)}")

    def check(self) -> None:
        """Waits for the stream; raises FormatError if a chunk of the last run could not be decoded."""
        raw = self._results.numpy().reshape(-1)
        lengths, statuses = raw[: 8 * self._count].view(np.uint64), raw[8 * self._count :].view(np.int32)
        bad = np.flatnonzero((statuses != 0) | (lengths != self._wanted))
        if bad.size:
            raise FormatError(f"nvCOMP: chunk {bad[0]} of {self._count} cannot be decoded: {_status_text(int(statuses[bad[0]]))}")
