"""Encoder and Decoder of layers: INT8 (or coarser) matrices to bytes and back, on the CPU or straight into GPU memory."""

from __future__ import annotations

import contextlib
import threading
import warnings

import numpy as np

from . import _native as n
from . import blob, zstd
from .errors import ArgumentError, DeviceError, FallbackWarning, FormatError, OutOfMemory, Unsupported
from .gpu import DeviceTensor, Gpu
from .tensor import Tensor, dtype_code, encode, encode_int8

_warned: set[str] = set()
_warned_lock = threading.Lock()


def warn_fallback(what: str, reason: Exception | str) -> None:
    """One FallbackWarning for each thing and reason in the life of the process."""
    text = f"{what} runs on the CPU: {reason}"
    with _warned_lock:
        if text in _warned:
            return
        _warned.add(text)
    warnings.warn(text, FallbackWarning, stacklevel=4)


class Encoder:
    """Matrices to layer blobs. Immutable; may be shared by threads.

    codec: "tile" (this project's; any weights) or "zstd" (chunked frames of libzstd; INT8 only).
    profile: of codec tile: "small" (fewest bytes) or "fast" (fewest look-ups of a GPU); level, chunk_bytes: of codec zstd.
    threads: of codec tile: 0 = one per core; the bytes do not depend on it.
    """

    def __init__(self, codec: str = "tile", *, profile: str = "small", level: int = 3, chunk_bytes: int = blob.DEFAULT_CHUNK, threads: int = 0):
        if codec not in blob.CODECS:
            raise ArgumentError(f"'{codec}' is no codec; there are {', '.join(blob.CODECS)}")
        if profile not in n.PROFILES:
            raise ArgumentError(f"'{profile}' is no profile; there are {', '.join(n.PROFILES)}")
        if not 1 <= chunk_bytes <= blob.MAX_CHUNK:
            raise ArgumentError(f"chunk_bytes is 1 to {blob.MAX_CHUNK}, not {chunk_bytes}")
        self.codec, self.profile, self.level, self.chunk_bytes, self.threads = codec, profile, level, chunk_bytes, threads

    def encode_layer(self, q, scales=None) -> tuple[bytes, float]:
        """A rows x cols int8 matrix, exactly, to (blob, ratio); ratio: bytes before over bytes after.

        scales: `rows` numbers above 0 that the integers are to be multiplied with; carried along. Raises ArgumentError for other types and
        shapes, and for empty matrices.
        """
        q = np.ascontiguousarray(q)
        if q.ndim != 2 or q.dtype != np.int8 or not q.size:
            raise ArgumentError(f"a layer is a rows x cols matrix of int8 with at least one element, not {q.dtype} of shape {q.shape}")
        if scales is not None:
            scales = np.ascontiguousarray(scales, np.float32).reshape(-1)
            if scales.size != q.shape[0]:
                raise ArgumentError(f"{scales.size} scales for {q.shape[0]} rows")
        if self.codec == "zstd":
            if scales is not None and not (np.isfinite(scales) & (scales > 0)).all():
                raise ArgumentError("scales are finite numbers above 0")
            out = zstd.encode(q, scales, self.level, self.chunk_bytes)
        else:
            out = blob.write(blob.TILE, n.I8, *q.shape, encode_int8(q, scales, profile=self.profile, threads=self.threads))
        return out, q.nbytes / len(out)

    def encode_weights(self, weights, *, mode: str = "rd", bpw: float = 4.5, dtype=None, trellis: bool = True) -> tuple[bytes, float]:
        """A rows x cols matrix of float32, float16, or bfloat16 (bits as uint16 and dtype="bfloat16") to (blob, ratio). Codec tile only.

        mode: "rd" (bpw bits per weight), "int8" or "lossless"; trellis: see encode. Raises Unsupported where coding does not shrink the matrix.
        """
        if self.codec != "tile":
            raise ArgumentError("codec zstd is for int8 matrices: encode_layer")
        weights = np.ascontiguousarray(weights)
        coded = encode(weights, mode=mode, bpw=bpw, dtype=dtype, profile=self.profile, threads=self.threads, trellis=trellis)
        return self.wrap(coded, weights.nbytes)

    @staticmethod
    def wrap(coded: bytes, source_bytes: int = 0) -> tuple[bytes, float]:
        """A tile blob (of `codecllm compress`, of encode) as a layer blob. ratio: source_bytes over the result's."""
        t = Tensor(coded)
        if t.mode == "raw":
            raise Unsupported("coding does not shrink this matrix: keep it as it is")
        out = blob.write(blob.TILE, dtype_code(t.natural_dtype), *t.shape, bytes(coded[: t.nbytes]))
        return out, source_bytes / len(out)


def open_tile(layer: blob.Layer) -> Tensor:
    """The tile blob in a layer blob; FormatError where the two disagree."""
    with blob.positions_of_payload():
        t = Tensor(layer.payload)
    if t.shape != (layer.rows, layer.cols) or t.nbytes != layer.payload_bytes or t.mode == "raw" or dtype_code(t.natural_dtype) != layer.dtype:
        raise FormatError(
            f"layer blob: its header says {layer.rows} x {layer.cols} {n.DTYPE_NAMES[layer.dtype]} in {layer.payload_bytes} bytes, its tiles"
            f" {t.rows} x {t.cols} {t.natural_dtype} ({t.mode}) in {t.nbytes}", blob.HEADER_BYTES,
        )
    return t


class Decoder:
    """Layer blobs to matrices. May be shared by threads that use different CUDA streams.

    device: "cuda" or "cuda:N" for the *_to_gpu functions. Where it cannot be used they decode on the CPU into host memory and warn once
    (FallbackWarning, which says why); strict=True: they raise instead. What is wrong with the bytes is always raised.
    verify: compare payloads with their checksums (codec zstd on a GPU: always). threads: of the CPU; 0 = one per core.
    """

    def __init__(self, device: str = "cuda", *, strict: bool = False, verify: bool = True, threads: int = 0):
        self.device, self.strict, self.verify, self.threads = device, strict, verify, threads

    def _parse(self, data) -> blob.Layer:
        layer = blob.parse(data)
        if self.verify:
            layer.verify()
        return layer

    def decode_layer(self, data) -> np.ndarray:
        """A layer blob to a rows x cols array on the host: int8 (int16 of coarse outliers; lossless: float16, or bfloat16 bits as uint16)."""
        layer = self._parse(data)
        if layer.codec == blob.ZSTD:
            return zstd.decode(layer, threads=self.threads)
        tile = open_tile(layer)
        with blob.positions_of_payload():
            return tile.decode(threads=self.threads)

    def scales(self, data) -> np.ndarray | None:
        """The row scales of a layer of integers, float32; None where it has none (zstd) or no integers (lossless)."""
        layer = self._parse(data)
        if layer.codec == blob.ZSTD:
            return zstd.scales_of(layer)
        t = open_tile(layer)
        return None if t.mode == "lossless" else t.row_scales()

    # ---- to the GPU ----

    def decode_layer_to_gpu(self, data, dtype=None, stream: int | None = None) -> DeviceTensor:
        """A layer blob to a matrix in GPU memory. dtype: None for what decode_layer gives; "float16" or "bfloat16" for weights (tile).

        Works on torch's current stream, or `stream` (a cudaStream_t as a number). Corruption is found before this returns: it waits for
        the stream.
        """
        return self.decode_batch_to_gpu([data], dtype, stream)[0]

    def decode_batch_to_gpu(self, batch, dtype=None, stream: int | None = None) -> list[DeviceTensor]:
        """Several at once: one decoding call for all of a codec, one wait at the end."""
        layers = [self._parse(data) for data in batch]
        tiles = {i: open_tile(layer) for i, layer in enumerate(layers) if layer.codec == blob.TILE}
        if dtype is not None and dtype_code(dtype) != n.I8 and len(tiles) < len(layers):
            raise ArgumentError("codec zstd decodes to int8")
        try:
            gpu = Gpu.get(self.device)
            return self._on_gpu(gpu, layers, tiles, dtype, gpu.current_stream() if stream is None else stream)
        except (Unsupported, DeviceError, OutOfMemory) as e:
            if self.strict:
                raise
            warn_fallback("decoding of layers", e)
        return [self._on_host(layer, tiles.get(i), dtype) for i, layer in enumerate(layers)]

    def _on_gpu(self, gpu: Gpu, layers, tiles, dtype, stream: int) -> list[DeviceTensor]:
        out: list[DeviceTensor | None] = [None] * len(layers)
        by_type: dict[int, list[int]] = {}
        for i, t in tiles.items():
            by_type.setdefault(dtype_code(dtype or t.natural_dtype), []).append(i)
        uploaded = {i: gpu.upload(t) for i, t in tiles.items()}
        for code, members in by_type.items():
            for i, o in zip(members, gpu.decode([uploaded[i] for i in members], n.DTYPE_NAMES[code], stream), strict=True):
                out[i] = o
        rest = [i for i in range(len(layers)) if i not in tiles]
        batch = None
        if rest:
            matrices = [zstd.GpuZstd(gpu, layers[i]) for i in rest]
            for i in rest:
                out[i] = gpu.buffer(layers[i].rows, layers[i].cols, "int8", stream)
            batch = zstd.ZstdBatch(matrices, [out[i].data_ptr for i in rest], stream)
            batch.run()
        gpu.check(stream)
        if batch:
            batch.check()
        return out

    def _on_host(self, layer: blob.Layer, tile: Tensor | None, dtype) -> DeviceTensor:
        with contextlib.nullcontext() if tile is None else blob.positions_of_payload():
            array = zstd.decode(layer, threads=self.threads) if tile is None else tile.decode(dtype, threads=self.threads)
        out = DeviceTensor(None, layer.rows, layer.cols, dtype_code(dtype) if dtype else layer.dtype)
        out.write(array)
        return out
