"""A compressed weight: its bytes on the host, and its copies in the memory of GPUs, each made once."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch

from .. import blob, codec, zstd
from ..errors import ArgumentError, Unsupported
from ..gpu import DL_CPU, Gpu
from ..tensor import Tensor

BLOB_ALIGN = 64  # of the bytes in a state dict, as in a directory
# Tests: a Gpu whose memory is the host's stands in for the GPU of tensors on the CPU.
host_gpu: Gpu | None = None

TO_TORCH = {"int8": torch.int8, "int16": torch.int16, "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
FROM_TORCH = {v: k for k, v in TO_TORCH.items()}


def gpu_of(device: torch.device) -> Gpu:
    """The GPU that tensors on `device` are on. Raises Unsupported with the reason."""
    if device.type == "cuda":
        return Gpu.get(device.index if device.index is not None else torch.cuda.current_device())
    if device.type == "cpu" and host_gpu is not None and host_gpu.dl_device == DL_CPU:
        return host_gpu
    raise Unsupported(f"its input is on {device}, not on a CUDA device")


def to_tensor(array: np.ndarray, dtype: str) -> torch.Tensor:
    """Shares memory with the array. NumPy holds bfloat16 as uint16 bits."""
    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def dequantize(q: torch.Tensor, row_scales: torch.Tensor, col_scales: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Integers to weights, each product rounded to float32 and the last to `dtype`: the bits that the fused decoders give."""
    w = torch.mul(q, row_scales)
    if col_scales is not None:
        w.mul_(col_scales)
    return w.to(dtype)


class CodedWeight:
    """rows x cols weights as a tile blob (codec "tile") or a layer blob with row scales (codec "zstd"). May be shared by modules.

    data: bytes-like, kept alive. Raises FormatError if it is no sound blob.
    """

    def __init__(self, data, codec_name: str = "tile"):
        self._lock = threading.Lock()
        self.users: weakref.WeakSet = weakref.WeakSet()  # modules that are told when it changes: their renew()
        self._load(data, codec_name)

    def _load(self, data, codec_name: str) -> None:
        self.codec = codec_name
        self.data = np.frombuffer(data, np.uint8)
        if codec_name == "tile":
            self.tile = Tensor(self.data)
            if self.tile.mode == "raw":
                raise Unsupported("a blob of mode raw is not compressed: keep its numbers as they are")
            self.rows, self.cols, self.nbytes = self.tile.rows, self.tile.cols, self.tile.nbytes
            self.natural, self.mode, self.source_dtype = self.tile.natural_dtype, self.tile.mode, self.tile.source_dtype
        elif codec_name == "zstd":
            self.layer = blob.parse(self.data)
            if self.layer.codec != blob.ZSTD or self.layer.scales_at is None:
                raise ArgumentError("a layer blob of codec zstd with row scales is wanted")
            self.rows, self.cols = self.layer.rows, self.layer.cols
            self.nbytes = blob.HEADER_BYTES + self.layer.payload_bytes
            self.natural, self.mode, self.source_dtype = "int8", "int8", "float32"
        else:
            raise ArgumentError(f"'{codec_name}' is no codec; there are tile, zstd")
        self._on: dict[int, object] = {}
        self._scales: dict[torch.device, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def reload(self, data) -> None:
        """Takes other bytes of the same shape and codec; every module that uses it follows. Raises FormatError and changes nothing, or
        ArgumentError where they are of another shape."""
        other = CodedWeight(data, self.codec)
        if (other.rows, other.cols) != (self.rows, self.cols):
            raise ArgumentError(f"it holds {other.rows} x {other.cols}, not {self.rows} x {self.cols}")
        self._load(data, self.codec)
        for module in list(self.users):
            module.renew()

    def __reduce__(self):  # of copies and pickles: the bytes, and nothing that lies on a device
        return CodedWeight, (self.data[: self.nbytes].tobytes(), self.codec)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / (self.rows * self.cols)

    @property
    def has_integers(self) -> bool:
        return self.mode != "lossless"

    # ---- on the CPU ----

    def decode_host(self, dtype: torch.dtype | None = None, threads: int = 0) -> torch.Tensor:
        """On the CPU: the integers (dtype None; lossless: its own type), or the weights as `dtype`."""
        if self.codec == "zstd":
            q = torch.from_numpy(zstd.decode(self.layer, threads=threads))
            return q if dtype is None else dequantize(q, *self.scales(q.device), dtype)
        name = self.natural if dtype is None else FROM_TORCH[dtype]
        return to_tensor(self.tile.decode(name, threads=threads), name)

    def rows_host(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows of the matrix on the CPU: what an embedding of compressed weights does there."""
        unique, inverse = torch.unique(ids.reshape(-1), return_inverse=True)
        if unique.numel() and (int(unique[0]) < 0 or int(unique[-1]) >= self.rows):
            raise IndexError(f"index out of range: {int(unique[0])}..{int(unique[-1])} of {self.rows} rows")
        out = torch.empty(unique.numel(), self.cols, dtype=dtype)
        for i, row in enumerate(unique.tolist()):
            out[i] = to_tensor(self.tile.decode(FROM_TORCH[dtype], row, 1, threads=1), FROM_TORCH[dtype])
        return out[inverse].reshape(*ids.shape, self.cols)

    # ---- on a GPU ----

    def on(self, gpu: Gpu):
        """The GpuTensor (tile) or GpuZstd there; uploaded on first use."""
        found = self._on.get(gpu.index)
        if found is None:
            with self._lock:
                found = self._on.get(gpu.index)
                if found is None:
                    found = gpu.upload(self.tile) if self.codec == "tile" else zstd.GpuZstd(gpu, self.layer)
                    self._on[gpu.index] = found
        return found

    def forget(self, gpu: Gpu) -> None:
        """Frees the copy there once nothing else holds it."""
        with self._lock:
            self._on.pop(gpu.index, None)

    def scales(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Row scales (rows x 1) and column multipliers (1 x cols, or None) as float32 there."""
        found = self._scales.get(device)
        if found is None:
            if self.codec == "zstd":
                rows, cols = zstd.scales_of(self.layer), None
            else:
                rows, cols = self.tile.row_scales(), self.tile.col_scales()
            found = (
                torch.from_numpy(rows).to(device).unsqueeze(1),
                None if cols is None else torch.from_numpy(cols).to(device).unsqueeze(0),
            )
            self._scales[device] = found
        return found

    # ---- state ----

    def state(self) -> torch.Tensor:
        """The bytes as a uint8 vector for a state dict, padded with zeros to a multiple of 64."""
        out = torch.zeros(-(-self.nbytes // BLOB_ALIGN) * BLOB_ALIGN, dtype=torch.uint8)
        out[: self.nbytes] = torch.from_numpy(self.data[: self.nbytes].copy())
        return out

    # ---- making one ----

    @classmethod
    def encode(
        cls, weight: torch.Tensor, *, mode: str, bpw: float, codec_name: str, profile: str, threads: int, level: int = 3, rows_together: int = 0,
        trellis: bool = True,
    ) -> CodedWeight:
        """Encodes a two-dimensional float tensor of any device; rows_together, trellis: see codecllm.encode. Raises Unsupported where it does not shrink, ArgumentError for NaN."""
        weight = weight.detach().to("cpu").contiguous()
        name = FROM_TORCH.get(weight.dtype)
        if name not in ("float16", "bfloat16", "float32"):
            raise ArgumentError(f"weights are float16, bfloat16 or float32, not {weight.dtype}")
        if codec_name == "zstd":
            if mode != "int8":
                raise ArgumentError("codec zstd is for mode int8")
            w = weight.float()
            top = w.abs().amax(1, keepdim=True)
            if not bool(torch.isfinite(top).all()):
                raise ArgumentError("a weight is not a finite number")
            scale = torch.where(top > 0, top / 127, 1)
            q = (w / scale).round_().clamp_(-127, 127).to(torch.int8)
            data, _ = codec.Encoder("zstd", level=level).encode_layer(q.numpy(), scale.numpy())
            return cls(data, "zstd")
        array = weight.view(torch.int16).numpy().view(np.uint16) if name == "bfloat16" else weight.numpy()
        return cls(
            codec.encode(array, mode=mode, bpw=bpw, dtype=name, profile=profile, threads=threads, rows_together=rows_together, trellis=trellis)
        )

