"""libcodecllm through ctypes: where it is found, what its functions take, and its errors as exceptions.

Structures repeat include/codecllm.h member by member. ctypes releases the interpreter's lock during a call.
"""

from __future__ import annotations

import ctypes
import glob
import os
import sys
import threading
from ctypes import (
    CDLL, POINTER, Structure, byref, c_bool, c_char, c_char_p, c_double, c_float, c_int, c_size_t, c_uint32, c_uint64, c_void_p,
)

from .errors import BY_STATUS, Error, Unsupported

NO_POSITION = (1 << 64) - 1

MODE_RAW, MODE_INT8, MODE_RD, MODE_LOSSLESS = range(4)
MODES = {"raw": MODE_RAW, "int8": MODE_INT8, "rd": MODE_RD, "lossless": MODE_LOSSLESS}
MODE_NAMES = {v: k for k, v in MODES.items()}

BF16, F16, F32, I8, I16 = 1, 2, 3, 4, 5
DTYPES = {"bfloat16": BF16, "float16": F16, "float32": F32, "int8": I8, "int16": I16}
DTYPE_NAMES = {v: k for k, v in DTYPES.items()}
ITEMSIZE = {BF16: 2, F16: 2, F32: 4, I8: 1, I16: 2}

PROFILES = {"small": 0, "fast": 1}


# Before 1.0 structures may change with every minor version, and the library's name with them.
SONAME = "libcodecllm.so.0.1"
_VERSIONS = range(100, 200)  # of cllm_version_number()


class CError(Structure):
    _fields_ = [("status", c_int), ("position", c_uint64), ("message", c_char * 512)]


class EncodeParams(Structure):
    _fields_ = [
        ("struct_bytes", c_size_t), ("mode", c_int), ("profile", c_int), ("step", c_float), ("bpw", c_float), ("col_weight", POINTER(c_float)),
        ("row_weight", POINTER(c_float)), ("threads", c_int), ("rows_together", c_uint32), ("tuple", c_int), ("levels", c_int),
        ("planes", c_int), ("max_length", c_int), ("tile_cols", c_int), ("fold", c_int),
        ("trellis", c_int), ("hessian", POINTER(c_float)),
    ]


class TensorInfo(Structure):
    _fields_ = [
        ("mode", c_int), ("dtype", c_int), ("rows", c_uint32), ("cols", c_uint32), ("blob_bytes", c_uint64), ("bits_per_weight", c_double),
        ("layout", c_int), ("tuple", c_int), ("levels", c_int), ("planes", c_int), ("max_length", c_int), ("tile_cols", c_int),
        ("fold", c_bool), ("tiles", c_uint32), ("outliers", c_uint64), ("has_row_scale", c_bool), ("has_col_scale", c_bool),
        ("trellis", c_bool),
    ]


class StoreEntry(Structure):
    _fields_ = [
        ("name", c_char_p), ("dtype", c_char_p), ("coded", c_bool), ("ndim", c_uint32), ("shape", c_uint64 * 8), ("data", c_void_p),
        ("bytes", c_uint64),
    ]


class GpuInfo(Structure):
    _fields_ = [("index", c_int), ("dl_device", c_int), ("tensors", c_uint64), ("buffers", c_uint64), ("buffers_peak", c_uint64), ("workspaces", c_uint64)]


class DecodeJob(Structure):
    _fields_ = [("tensor", c_void_p), ("row0", c_uint32), ("nrows", c_uint32), ("out", c_void_p), ("capacity", c_size_t)]


class MultiplyJob(Structure):
    _fields_ = [("tensor", c_void_p), ("bias", c_void_p), ("y", c_void_p), ("y_stride", c_size_t)]


class Device(Structure):
    _fields_ = [
        ("id", c_char * 16), ("name", c_char * 96), ("detail", c_char * 160), ("built_for", c_char * 96), ("memory", c_uint64),
        ("free_memory", c_uint64), ("copy_bytes_per_s", c_double),
    ]


_error = POINTER(CError)
_handle = POINTER(c_void_p)
# name: (result, arguments); "s" as result: a cllm_status, checked by call()
_FUNCTIONS = {
    "cllm_version": (c_char_p, []),
    "cllm_version_number": (c_uint32, []),
    "cllm_free": (None, [c_void_p]),
    "cllm_encode_params_init": (None, [POINTER(EncodeParams), c_size_t]),
    "cllm_encode": ("s", [c_void_p, c_int, c_uint32, c_uint32, POINTER(EncodeParams), _handle, POINTER(c_size_t), _error]),
    "cllm_encode_int8": ("s", [c_void_p, c_void_p, c_int, c_uint32, c_uint32, POINTER(EncodeParams), _handle, POINTER(c_size_t), _error]),
    "cllm_tensor_open": ("s", [c_void_p, c_size_t, _handle, _error]),
    "cllm_tensor_close": (None, [c_void_p]),
    "cllm_tensor_get_info": (None, [c_void_p, POINTER(TensorInfo)]),
    "cllm_tensor_decode": ("s", [c_void_p, c_uint32, c_uint32, c_int, c_void_p, c_size_t, c_int, _error]),
    "cllm_tensor_row_scales": ("s", [c_void_p, c_void_p, c_size_t, _error]),
    "cllm_tensor_col_scales": ("s", [c_void_p, c_void_p, c_size_t, _error]),
    "cllm_check_hashes": ("s", [c_char_p, c_bool, c_void_p, c_void_p, _error]),
    "cllm_store_open": ("s", [c_char_p, _handle, _error]),
    "cllm_store_close": (None, [c_void_p]),
    "cllm_store_count": (c_size_t, [c_void_p]),
    "cllm_store_get": (c_bool, [c_void_p, c_size_t, POINTER(StoreEntry)]),
    "cllm_device_get_info": ("s", [c_char_p, c_bool, POINTER(Device), _error]),
    "cllm_gpu_open": ("s", [c_char_p, _handle, _error]),
    "cllm_gpu_close": (None, [c_void_p]),
    "cllm_gpu_get_info": (None, [c_void_p, POINTER(GpuInfo)]),
    "cllm_gpu_reset_peak": (None, [c_void_p]),
    "cllm_gpu_trim": (None, [c_void_p]),
    "cllm_gpu_check": ("s", [c_void_p, c_void_p, _error]),
    "cllm_gpu_upload": ("s", [c_void_p, c_void_p, _handle, _error]),
    "cllm_gpu_tensor_free": (None, [c_void_p]),
    "cllm_gpu_tensor_get_info": (None, [c_void_p, POINTER(TensorInfo), POINTER(c_uint64)]),
    "cllm_gpu_decode": ("s", [c_void_p, POINTER(DecodeJob), c_uint32, c_int, c_void_p, _error]),
    "cllm_gpu_multiply": ("s", [c_void_p, POINTER(MultiplyJob), c_uint32, c_void_p, c_size_t, c_uint32, c_int, c_void_p, _error]),
    "cllm_gpu_rows": ("s", [c_void_p, c_void_p, c_void_p, c_uint32, c_void_p, c_size_t, c_void_p, _error]),
    "cllm_buffer_new": ("s", [c_void_p, c_size_t, c_void_p, _handle, _error]),
    "cllm_buffer_retain": (None, [c_void_p]),
    "cllm_buffer_release": (None, [c_void_p]),
    "cllm_buffer_data": (c_void_p, [c_void_p]),
    "cllm_buffer_bytes": (c_size_t, [c_void_p]),
    "cllm_buffer_use": ("s", [c_void_p, c_void_p, _error]),
    "cllm_buffer_write": ("s", [c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, _error]),
    "cllm_buffer_read": ("s", [c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, _error]),
    "cllm_buffer_to_dlpack": ("s", [c_void_p, c_int, c_uint32, c_uint32, _handle, _error]),
    "cllm_buffer_to_dlpack_legacy": ("s", [c_void_p, c_int, c_uint32, c_uint32, _handle, _error]),
}


def in_wheels(*patterns: str) -> list[str]:
    """Files that other wheels have installed, as patterns below the folders that Python looks for packages in. Asking the import system would
    find one of several folders named nvidia only."""
    return [path for pattern in patterns for folder in sys.path for path in sorted(glob.glob(os.path.join(folder or ".", pattern)), reverse=True)]


def library_folder() -> str:
    """The folder of this package that a wheel keeps its libraries in."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib")


def _preload_neighbours() -> None:
    """What the wheel brings along for libcodecllm: loaded from here, the loader knows it by name when libcodecllm asks for it."""
    folder = library_folder()
    for name in sorted(os.listdir(folder)):
        if ".so" in name and not name.startswith("libcodecllm"):
            try:
                CDLL(os.path.join(folder, name))
            except OSError:
                pass  # if it was needed, loading libcodecllm tells


def _find() -> CDLL:
    """CODECLLM_LIBRARY (a file), the wheel's own, then whatever the system's loader finds."""
    named = os.environ.get("CODECLLM_LIBRARY")
    own = os.path.join(library_folder(), SONAME)
    places = [named] if named else [own] if os.path.exists(own) else [SONAME]
    reasons = []
    if places == [own]:
        _preload_neighbours()
    for place in places:
        try:
            return CDLL(place)
        except OSError as e:
            reasons.append(str(e))
    raise Unsupported(
        "libcodecllm cannot be loaded: " + "; ".join(reasons)
        + ". Install the wheel (pip install ./python), or let CODECLLM_LIBRARY name the file"
    )


_lib: CDLL | None = None
_lock = threading.Lock()


def lib() -> CDLL:
    """The library, loaded and described on first use."""
    global _lib
    if _lib is None:
        with _lock:
            if _lib is None:
                found = _find()
                for name, (result, arguments) in _FUNCTIONS.items():
                    try:
                        f = getattr(found, name)
                    except AttributeError:
                        raise Unsupported(f"{found._name} has no {name}: library and package must come from the same version") from None
                    f.restype = c_int if result == "s" else result
                    f.argtypes = arguments
                if found.cllm_version_number() not in _VERSIONS:
                    raise Unsupported(f"{found._name} is version {found.cllm_version().decode()}, and this package is made for {SONAME}")
                _lib = found
    return _lib


def hot(name: str):
    """A function that keeps the interpreter's lock while it runs: for calls that only queue work, and are many."""
    f = ctypes.PyDLL(lib()._name)[name]
    result, arguments = _FUNCTIONS[name]
    f.restype, f.argtypes = c_int if result == "s" else result, arguments
    return f


_local = threading.local()


def error() -> CError:
    """This thread's place for errors."""
    try:
        return _local.error
    except AttributeError:
        _local.error = CError()
        return _local.error


def fail(e: CError) -> Error:
    position = None if e.position == NO_POSITION else e.position
    return BY_STATUS.get(e.status, Error)(e.message.decode("utf-8", "replace"), position)


def call(name: str, *arguments) -> None:
    """Calls a function that returns a status; its error becomes an exception."""
    e = error()
    if getattr(lib(), name)(*arguments, byref(e)):
        raise fail(e)


def new_handle(name: str, *arguments) -> int:
    """The same for functions whose last argument before the error is a new object."""
    handle = c_void_p()
    call(name, *arguments, byref(handle))
    return handle.value


def take_bytes(pointer: c_void_p, count: int) -> bytes:
    """Copies what the library handed out, and frees it."""
    try:
        return ctypes.string_at(pointer, count)
    finally:
        lib().cllm_free(pointer)


def version() -> str:
    return lib().cllm_version().decode()

