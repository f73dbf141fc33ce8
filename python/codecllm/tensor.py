"""Matrices and their tile blobs on the CPU: encode, open, decode; and the tensors of a compressed directory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping

import numpy as np

from . import _native as n
from .errors import ArgumentError, OutOfMemory

# NumPy has no bfloat16: its bits are held as uint16, like everywhere in this package.
_NUMPY = {n.BF16: np.uint16, n.F16: np.float16, n.F32: np.float32, n.I8: np.int8, n.I16: np.int16}


def dtype_code(dtype) -> int:
    """Number of a type by its name ("bfloat16", "float16", "float32", "int8", "int16"); torch's and NumPy's types are taken too."""
    name = str(getattr(dtype, "name", dtype)).removeprefix("torch.")
    try:
        return n.DTYPES[name]
    except KeyError:
        raise ArgumentError(f"'{name}' is no type of numbers here; there are {', '.join(n.DTYPES)}") from None


def address(data) -> int:
    """Address of the first byte of a bytes-like object; the caller keeps it alive."""
    return np.frombuffer(data, np.uint8).ctypes.data


def new_array(shape: tuple[int, int], dtype) -> np.ndarray:
    """Raises OutOfMemory where there is not so much."""
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):
        raise OutOfMemory(f"no memory for {shape[0]} x {shape[1]} numbers of {np.dtype(dtype).itemsize} bytes") from None


def encode_params(
    *, mode="int8", bpw=0.0, step=0.0, profile="small", threads=0, rows_together=0, col_weight=None, row_weight=None,
    trellis=True
) -> n.EncodeParams:
    p = n.EncodeParams()
    n.lib().cllm_encode_params_init(ctypes.byref(p), ctypes.sizeof(p))
    if mode not in n.MODES:
        raise ArgumentError(f"'{mode}' is no mode; there are {', '.join(n.MODES)}")
    if profile not in n.PROFILES:
        raise ArgumentError(f"'{profile}' is no profile; there are {', '.join(n.PROFILES)}")
    p.mode, p.profile, p.threads, p.bpw, p.step = n.MODES[mode], n.PROFILES[profile], threads, bpw, step
    p.rows_together = rows_together
    if not trellis:
        p.trellis = 0
    for name, values in (("col_weight", col_weight), ("row_weight", row_weight)):
        if values is not None:
            setattr(p, name, values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
    return p


def _matrix(array: np.ndarray) -> np.ndarray:
    if array.ndim != 2:
        raise ArgumentError(f"a matrix has two dimensions, not {array.ndim}")
    return np.ascontiguousarray(array)


def encode(
    array: np.ndarray, *, mode: str = "rd", bpw: float = 4.5, dtype=None, profile: str = "small", threads: int = 0,
    rows_together: int = 0, col_weight=None, trellis: bool = True,
) -> bytes:
    """Encodes a rows x cols matrix of float32, float16, or bfloat16 (bits as uint16 and dtype="bfloat16") to a tile blob.

    mode: "rd" (bpw bits per weight), "int8" or "lossless". col_weight: `cols` importances above 0 (rd). threads: 0 = one per core.
    rows_together: of profile "fast", rows of all matrices that one vector is multiplied with at a time, these among them; 0 = these alone.
    trellis: of mode "rd", one where it leaves less error for the bytes; False: none, for programs from before it.
    Falls back to mode "raw" where coding does not shrink. Raises ArgumentError for NaN, infinity and other types.
    """
    array = _matrix(array)
    code = dtype_code(array.dtype if dtype is None else dtype)
    if code not in (n.BF16, n.F16, n.F32) or _NUMPY[code] != array.dtype:
        raise ArgumentError(f"weights are float32, float16, or uint16 with dtype='bfloat16'; not {array.dtype}")
    if col_weight is not None:
        col_weight = np.ascontiguousarray(col_weight, np.float32)
        if col_weight.shape != array.shape[1:]:
            raise ArgumentError(f"col_weight has {col_weight.size} numbers for {array.shape[1]} columns")
    p = encode_params(
        mode=mode, bpw=bpw if mode == "rd" else 0.0, profile=profile, threads=threads, rows_together=rows_together, col_weight=col_weight,
        trellis=trellis
    )
    out, size = ctypes.c_void_p(), ctypes.c_size_t()
    n.call("cllm_encode", array.ctypes.data, code, *array.shape, ctypes.byref(p), ctypes.byref(out), ctypes.byref(size))
    return n.take_bytes(out, size.value)


def encode_int8(q: np.ndarray, scales: np.ndarray | None = None, *, dtype="float32", profile: str = "small", threads: int = 0) -> bytes:
    """Encodes a rows x cols int8 matrix exactly to a tile blob that means q * scales[row] (scales: `rows` numbers above 0; None: 1)."""
    q = _matrix(q)
    if q.dtype != np.int8:
        raise ArgumentError(f"int8 is wanted, not {q.dtype}")
    where = None
    if scales is not None:
        scales = np.ascontiguousarray(scales, np.float32).reshape(-1)
        if scales.size != q.shape[0]:
            raise ArgumentError(f"{scales.size} scales for {q.shape[0]} rows")
        where = scales.ctypes.data
    p = encode_params(profile=profile, threads=threads)
    out, size = ctypes.c_void_p(), ctypes.c_size_t()
    n.call("cllm_encode_int8", q.ctypes.data, where, dtype_code(dtype), *q.shape, ctypes.byref(p), ctypes.byref(out), ctypes.byref(size))
    return n.take_bytes(out, size.value)


class Tensor:
    """An open tile blob: validated, ready to decode. Immutable; may be shared by threads. Keeps `blob` alive and does not copy it.

    rows, cols; mode "int8", "rd", "lossless" or "raw"; source_dtype: what it was encoded from; layout: bits of an element (8, 16);
    nbytes: of the blob; bits_per_weight; trellis: whether the integers are of one (they count half steps then).
    """

    def __init__(self, blob):
        self._blob = blob
        view = memoryview(blob)
        self._handle = None
        self._handle = n.new_handle("cllm_tensor_open", address(blob) if view.nbytes else None, view.nbytes)
        info = self.info = n.TensorInfo()
        n.lib().cllm_tensor_get_info(self._handle, ctypes.byref(info))
        self.rows, self.cols, self.layout = info.rows, info.cols, info.layout
        self.shape = (info.rows, info.cols)
        self.mode = n.MODE_NAMES[info.mode]
        self.source_dtype = n.DTYPE_NAMES[info.dtype]
        self.nbytes = info.blob_bytes
        self.bits_per_weight = info.bits_per_weight
        self.trellis = info.trellis

    @property
    def natural_dtype(self) -> str:
        """What nothing is lost in: int8 or int16 of integers, the source's own type otherwise."""
        return self.source_dtype if self.mode in ("lossless", "raw") else "int8" if self.layout == 8 else "int16"

    def decode(self, dtype=None, row0: int = 0, nrows: int | None = None, *, out: np.ndarray | None = None, threads: int = 0) -> np.ndarray:
        """Rows [row0, row0 + nrows) as `dtype`: the integers ("int8", "int16") or the weights ("bfloat16" as uint16 bits, "float16",
        "float32"). out: a contiguous array to fill. Raises FormatError where a tile is corrupt."""
        code = dtype_code(dtype or self.natural_dtype)
        nrows = self.rows - row0 if nrows is None else nrows
        if row0 < 0 or nrows < 0 or row0 + nrows > self.rows:
            raise ArgumentError(f"rows {row0} to {row0 + nrows} of a matrix of {self.rows}")
        if out is None:
            out = new_array((nrows, self.cols), _NUMPY[code])
        elif not out.flags.c_contiguous or not out.flags.writeable or out.dtype != _NUMPY[code] or out.size != nrows * self.cols:
            raise ArgumentError(f"out must be a writable contiguous {np.dtype(_NUMPY[code])} array of {nrows} x {self.cols}")
        n.call("cllm_tensor_decode", self._handle, row0, nrows, code, out.ctypes.data, out.nbytes, threads)
        return out

    def row_scales(self) -> np.ndarray:
        """float32, `rows` of them: weight = integer * row_scale * col_scale."""
        out = np.empty(self.rows, np.float32)
        n.call("cllm_tensor_row_scales", self._handle, out.ctypes.data, out.size)
        return out

    def col_scales(self) -> np.ndarray | None:
        """float32, `cols` of them; None where the blob has none."""
        if not self.info.has_col_scale:
            return None
        out = np.empty(self.cols, np.float32)
        n.call("cllm_tensor_col_scales", self._handle, out.ctypes.data, out.size)
        return out

    def __del__(self):
        if getattr(self, "_handle", None):
            n.lib().cllm_tensor_close(self._handle)
            self._handle = None

    def __repr__(self):
        return f"<codecllm.Tensor {self.rows} x {self.cols}, {self.mode}, {self.bits_per_weight:.3f} bits per weight>"


class Entry:
    """A tensor of a Store: name, dtype as safetensors spells it, shape, coded (a tile blob). Keeps the store open."""

    def __init__(self, store: Store, e: n.StoreEntry):
        self._store = store
        self.name, self.dtype, self.coded = e.name.decode(), e.dtype.decode(), bool(e.coded)
        self.shape = tuple(e.shape[: e.ndim])
        self.nbytes = e.bytes
        self._address = e.data

    @property
    def data(self) -> np.ndarray:
        """The stored bytes, memory-mapped: a blob, or plain numbers. Read-only; valid as long as it is referenced."""
        if not self.nbytes:
            return np.empty(0, np.uint8)
        buffer = (ctypes.c_uint8 * self.nbytes).from_address(self._address)
        buffer._store = self._store  # the array keeps the buffer, the buffer the map
        out = np.frombuffer(buffer, np.uint8)
        out.flags.writeable = False
        return out

    def open(self) -> Tensor:
        if not self.coded:
            raise ArgumentError(f"{self.name} is not compressed: its numbers are `data`")
        return Tensor(self.data)

    def __repr__(self):
        return f"<codecllm.Entry {self.name} {self.dtype} {self.shape}{' coded' if self.coded else ''}>"


class Store(Mapping):
    """The tensors of a model directory by name, or of a file that holds one blob (its name is ""). Memory-mapped;
    closed with the last reference to it, its entries and their data."""

    def __init__(self, path: str | os.PathLike):
        self._handle = None
        self._handle = n.new_handle("cllm_store_open", os.fsencode(path))
        self._index = {}
        e = n.StoreEntry()
        for i in range(n.lib().cllm_store_count(self._handle)):
            n.lib().cllm_store_get(self._handle, i, ctypes.byref(e))
            self._index[e.name.decode()] = i

    def __getitem__(self, name: str) -> Entry:
        e = n.StoreEntry()
        n.lib().cllm_store_get(self._handle, self._index[name], ctypes.byref(e))
        return Entry(self, e)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __del__(self):
        if getattr(self, "_handle", None):
            n.lib().cllm_store_close(self._handle)
            self._handle = None
