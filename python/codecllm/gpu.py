"""GPUs: coded matrices in their memory, decoded matrices that other libraries take over without a copy (DLPack)."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from ctypes import byref, c_char_p, c_int, c_void_p, py_object

import numpy as np

from . import _native as n
from .errors import ArgumentError, Unsupported
from .tensor import _NUMPY, Tensor, dtype_code

DL_CPU, DL_CUDA = 1, 2

# ---- capsules ----

_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.restype = py_object
_capsule_new.argtypes = [c_void_p, c_char_p, c_void_p]
# The destructor gets an object whose count is zero already: it must be handled as an address, or ctypes would revive it.
_capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is_valid.restype = c_int
_capsule_is_valid.argtypes = [c_void_p, c_char_p]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = c_void_p
_capsule_pointer.argtypes = [c_void_p, c_char_p]

_DESTRUCTOR = ctypes.CFUNCTYPE(None, c_void_p)
_DELETER = ctypes.CFUNCTYPE(None, c_void_p)
_WORD = ctypes.sizeof(c_void_p)
# Where `deleter` stands: behind version (2 x uint32) and manager_ctx; or behind the DLTensor (48 bytes on 64-bit machines) and manager_ctx.
_DELETER_AT = {b"dltensor_versioned": 8 + _WORD, b"dltensor": 48 + _WORD}


def _destroy(name: bytes):
    def destroy(capsule):
        if _capsule_is_valid(capsule, name):  # nobody took the tensor: it is still ours to delete
            managed = _capsule_pointer(capsule, name)
            deleter = c_void_p.from_address(managed + _DELETER_AT[name]).value
            _DELETER(deleter)(managed)

    return _DESTRUCTOR(destroy)


_destructors = {name: _destroy(name) for name in _DELETER_AT}  # kept for the life of the process


def _capsule(managed: int, name: bytes):
    return _capsule_new(managed, name, ctypes.cast(_destructors[name], c_void_p))


# ---- devices ----


def _preload_cublas() -> None:
    """The GPU library needs cuBLAS 13, which may be there only as a wheel (torch's); once loaded from there the loader knows it by name."""
    for path in n.in_wheels("nvidia/cu13/lib/libcublas.so.13", "nvidia/cublas/lib/libcublas.so.13")[:1]:
        for name in ("libcublasLt.so.13", "libcublas.so.13"):
            try:
                ctypes.CDLL(os.path.join(os.path.dirname(path), name))
            except OSError:
                return  # the loader's own search comes next, and tells what is missing


class Gpu:
    """A GPU. Use Gpu.get(): there is one object for each device. Threads: calls at the same time must use different streams.

    index; name: "cuda:1"; dl_device: what its pointers are in DLPack's numbers.
    """

    _all: dict[int, Gpu] = {}
    _lock = threading.Lock()

    def __init__(self, index: int):
        self._handle = None
        _preload_cublas()
        torch = sys.modules.get("torch")
        before = torch.cuda.current_device() if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None
        self._handle = n.new_handle("cllm_gpu_open", b"cuda:%d" % index)
        if before is not None:
            torch.cuda.set_device(before)  # looking at a device selects it
        info = self._info()
        self.index, self.dl_device = info.index, info.dl_device
        self.name = f"cuda:{index}"

    @classmethod
    def get(cls, device: str | int = 0) -> Gpu:
        """"cuda", "cuda:1" or 1. Raises Unsupported with the reason where it cannot be used."""
        text = str(device)
        digits = text.removeprefix("cuda").removeprefix(":") or "0"
        if not digits.isdigit() or (isinstance(device, str) and not text.startswith("cuda")):
            raise ArgumentError(f"'{device}' is no GPU; it is cuda or cuda:N")
        index = int(digits)
        with cls._lock:
            if index not in cls._all:
                cls._all[index] = cls(index)
            return cls._all[index]

    def _info(self) -> n.GpuInfo:
        info = n.GpuInfo()
        n.lib().cllm_gpu_get_info(self._handle, byref(info))
        return info

    def memory(self) -> dict[str, int]:
        """Bytes of device memory held through this package: tensors (coded), buffers (decoded, owned by somebody), buffers_peak (the most
        since reset_peak), workspaces."""
        info = self._info()
        return {"tensors": info.tensors, "buffers": info.buffers, "buffers_peak": info.buffers_peak, "workspaces": info.workspaces}

    def reset_peak(self) -> None:
        n.lib().cllm_gpu_reset_peak(self._handle)

    def trim(self) -> None:
        """Gives device memory of freed buffers, which is kept for the next ones, back to the driver."""
        n.lib().cllm_gpu_trim(self._handle)

    @property
    def is_cuda(self) -> bool:
        return self.dl_device == DL_CUDA

    def current_stream(self) -> int:
        """torch's current stream on this device if torch uses it, else the default stream."""
        torch = sys.modules.get("torch")
        if self.is_cuda and torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            return torch.cuda.current_stream(self.index).cuda_stream
        return 0

    def check(self, stream: int | None = None) -> None:
        """Waits for the stream. Raises FormatError if a tile that was decoded since the last check is corrupt, DeviceError if a kernel
        failed."""
        n.call("cllm_gpu_check", self._handle, self.current_stream() if stream is None else stream)

    def upload(self, tensor: Tensor) -> GpuTensor:
        """The coded matrix in device memory; waits for the copy."""
        return GpuTensor(self, tensor)

    def buffer(self, rows: int, cols: int, dtype="int8", stream: int | None = None) -> DeviceTensor:
        """New device memory for work that is queued on `stream`; contents are unspecified."""
        return DeviceTensor(self, rows, cols, dtype_code(dtype), self.current_stream() if stream is None else stream)

    def decode(self, tensors, dtype="float16", stream: int | None = None) -> list[DeviceTensor]:
        """Decodes coded matrices into new device memory, all in one call. Corrupt tiles are told by check()."""
        stream = self.current_stream() if stream is None else stream
        code = dtype_code(dtype)
        out = [DeviceTensor(self, t.rows, t.cols, code, stream) for t in tensors]
        self.decode_into(tensors, [(o.data_ptr, o.nbytes) for o in out], code, stream)
        return out

    def decode_into(self, tensors, places, dtype, stream: int) -> None:
        """The same into given device memory: (address, bytes) for each."""
        self.prepare_decode(tensors, places, dtype, stream)()

    def prepare_decode(self, tensors, places, dtype, stream: int):
        """The same as a function that may be called again and again."""
        code = dtype if isinstance(dtype, int) else dtype_code(dtype)
        jobs = (n.DecodeJob * len(tensors))()
        for job, t, (address, capacity) in zip(jobs, tensors, places, strict=True):
            job.tensor, job.row0, job.nrows, job.out, job.capacity = t._handle, 0, t.rows, address, capacity
        alive = list(tensors)  # the jobs name them by address

        def decode():
            n.call("cllm_gpu_decode", self._handle, jobs, len(alive), code, stream)

        return decode

    def __reduce__(self):  # of copies and pickles: the one object of that device
        return Gpu.get, (self.name,)

    def __repr__(self):
        return f"<codecllm.Gpu {self.name}>"


class GpuTensor:
    """A coded matrix in device memory, freed with its last reference. Immutable. device_bytes: what it takes there."""

    def __init__(self, gpu: Gpu, tensor: Tensor):
        self._handle = None
        self.gpu, self.rows, self.cols = gpu, tensor.rows, tensor.cols
        self._handle = n.new_handle("cllm_gpu_upload", gpu._handle, tensor._handle)
        info, held = n.TensorInfo(), ctypes.c_uint64()
        n.lib().cllm_gpu_tensor_get_info(self._handle, byref(info), byref(held))
        self.device_bytes = held.value
        self.natural_dtype = tensor.natural_dtype

    def decode(self, dtype=None, stream: int | None = None) -> DeviceTensor:
        return self.gpu.decode([self], dtype or self.natural_dtype, stream)[0]

    def __del__(self):
        if getattr(self, "_handle", None):
            n.lib().cllm_gpu_tensor_free(self._handle)
            self._handle = None


class DeviceTensor:
    """A rows x cols matrix, row-major, in the memory of a GPU (or of the host, where something fell back to the CPU).

    Other libraries take it over without a copy: torch.from_dlpack(t), cupy.from_dlpack(t), numpy.from_dlpack(t) for host memory. The memory
    is freed with the last reference, theirs included.

    rows, cols, shape; dtype: "int8", "int16", "float16", "bfloat16" or "float32"; device: "cuda:0" or "cpu"; data_ptr: address; nbytes.
    """

    def __init__(self, gpu: Gpu | None, rows: int, cols: int, code: int, stream: int = 0):
        self._handle = None
        self.gpu, self.rows, self.cols, self._code, self._stream = gpu, rows, cols, code, stream
        self.nbytes = rows * cols * n.ITEMSIZE[code]
        self._handle = n.new_handle("cllm_buffer_new", gpu._handle if gpu else None, self.nbytes, stream)
        self.data_ptr = n.lib().cllm_buffer_data(self._handle)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.cols

    @property
    def dtype(self) -> str:
        return n.DTYPE_NAMES[self._code]

    @property
    def device(self) -> str:
        return self.gpu.name if self.gpu else "cpu"

    # ---- DLPack ----

    def __dlpack_device__(self) -> tuple[int, int]:
        if self.gpu is None or not self.gpu.is_cuda:
            return DL_CPU, 0
        return DL_CUDA, self.gpu.index

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """See the array API standard. stream: the consumer's (CUDA: None or 1 the default one, 2 the per-thread one, -1 no ordering)."""
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"this matrix is on {self.device}; other devices get no view of it")
        if copy:
            raise BufferError("only views are handed out; copy what you get")
        if self.gpu is not None and self.gpu.is_cuda and stream != -1:
            if stream == 0 or (stream is not None and stream < -1):
                raise BufferError(f"{stream} is no stream that DLPack knows")
            n.call("cllm_buffer_use", self._handle, 0 if stream in (None, 1) else stream)  # 1 names the default stream, which is 0 here
        versioned = max_version is not None and max_version[0] >= 1
        function, name = ("cllm_buffer_to_dlpack", b"dltensor_versioned") if versioned else ("cllm_buffer_to_dlpack_legacy", b"dltensor")
        return _capsule(n.new_handle(function, self._handle, self._code, self.rows, self.cols), name)

    @property
    def __cuda_array_interface__(self) -> dict:
        """Version 3. Not for bfloat16, which it cannot name, and not for host memory."""
        if self.gpu is None or not self.gpu.is_cuda or self._code == n.BF16:
            raise AttributeError("__cuda_array_interface__ names CUDA memory with types that NumPy has; use __dlpack__")
        return {
            "shape": self.shape, "typestr": np.dtype(_NUMPY[self._code]).str, "data": (self.data_ptr, False), "version": 3, "strides": None,
            "stream": self._stream or 1,
        }

    # ---- copies ----

    def numpy(self) -> np.ndarray:
        """A copy on the host (bfloat16: its bits as uint16). Waits for the stream it was made on."""
        out = np.empty(self.shape, _NUMPY[self._code])
        if self.nbytes:
            n.call("cllm_buffer_read", self._handle, 0, out.ctypes.data, out.nbytes, self._stream)
        return out

    def write(self, array: np.ndarray) -> None:
        """Fills it from the host."""
        array = np.ascontiguousarray(array)
        if array.nbytes != self.nbytes:
            raise ArgumentError(f"{array.nbytes} bytes for a matrix of {self.nbytes}")
        if self.nbytes:
            n.call("cllm_buffer_write", self._handle, 0, array.ctypes.data, array.nbytes, self._stream)

    def torch(self):
        """torch.from_dlpack(self): the same memory as a torch tensor."""
        import torch

        return torch.from_dlpack(self)

    def __del__(self):
        if getattr(self, "_handle", None):
            n.lib().cllm_buffer_release(self._handle)
            self._handle = None

    def __repr__(self):
        return f"<codecllm.DeviceTensor {self.rows} x {self.cols} {self.dtype} on {self.device}>"


def device_info(device: str = "auto", measure: bool = False) -> dict:
    """What a device is: id, name, detail, built_for, memory, free_memory (bytes), copy_bytes_per_s (0 unless `measure`).

    Raises Unsupported with the reason where it cannot be used.
    """
    _preload_cublas()
    d = n.Device()
    n.call("cllm_device_get_info", device.encode(), measure, byref(d))
    out = {name: getattr(d, name) for name, _ in n.Device._fields_}
    return {k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in out.items()}


__all__ = ["DeviceTensor", "Gpu", "GpuTensor", "Unsupported", "device_info"]
