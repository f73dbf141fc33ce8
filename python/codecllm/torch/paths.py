"""How a decoded weight comes about, path by path. `fused` multiplies without one and comes here only for many rows.

    cpu           decoded on the CPU to integers, copied, dequantized by torch
    gpu           decoded on the GPU to integers, taken over without a copy, dequantized by torch
    gpu-dequant   decoded and dequantized by one kernel
    gpu-batched   the matrices of a block (a transformer layer) in one call, into memory that blocks take turns in
    gpu-overlap   the same, one block ahead, on a stream of its own

All give the same bits. Codec zstd decodes to integers, which torch dequantizes; it has the paths cpu, gpu and gpu-batched.
"""

from __future__ import annotations

import torch

from .. import _native as n
from .. import zstd
from ..errors import ArgumentError
from ..gpu import Gpu
from .weight import FROM_TORCH, TO_TORCH, CodedWeight, dequantize

PATHS = ("cpu", "gpu", "gpu-dequant", "gpu-batched", "gpu-overlap", "fused")
ZSTD_PATHS = ("cpu", "gpu", "gpu-batched")
_PLACE = 256  # bytes that each matrix in shared memory begins at a multiple of


def raw_stream(gpu: Gpu) -> int:
    """torch's current stream as a number; of the host's stand-in: 0."""
    return torch._C._cuda_getCurrentRawStream(gpu.index) if gpu.is_cuda else 0


def _fused_type(weight: CodedWeight, dtype: torch.dtype) -> bool:
    """Whether one kernel gives weights of that type."""
    if weight.codec != "tile" or dtype not in (torch.float16, torch.bfloat16):
        return False
    return weight.has_integers or dtype == torch.float16 or weight.source_dtype == "bfloat16"


def from_integers(q: torch.Tensor, weight: CodedWeight, dtype: torch.dtype) -> torch.Tensor:
    """Decoded elements to weights: dequantized, or (lossless) converted where the type differs."""
    return dequantize(q, *weight.scales(q.device), dtype) if weight.has_integers else q.to(dtype)


# ---- one at a time ----


def on_cpu(weight: CodedWeight, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return from_integers(weight.decode_host().to(device), weight, dtype)


def on_gpu(weight: CodedWeight, gpu: Gpu, dtype: torch.dtype) -> torch.Tensor:
    return from_integers(torch.from_dlpack(weight.on(gpu).decode(weight.natural, raw_stream(gpu))), weight, dtype)


def dequantized(weight: CodedWeight, gpu: Gpu, dtype: torch.dtype) -> torch.Tensor:
    if not _fused_type(weight, dtype):
        return on_gpu(weight, gpu, dtype)
    return torch.from_dlpack(weight.on(gpu).decode(FROM_TORCH[dtype], raw_stream(gpu)))


# ---- a block at a time ----


class Block:
    """The compressed matrices that run together, in the order of the model; `next` is the block after it (the first after the last).

    What a pass needs to know of them is worked out once: a pass of a small model takes a GPU less time than Python.
    """

    def __init__(self, name: str, weights: list[CodedWeight]):
        self.name, self.weights, self.next = name, weights, self
        self._forget()

    def _forget(self) -> None:
        self._types: dict = {}
        self._places: dict = {}
        self._prepared: dict = {}

    def renew(self) -> None:
        """A weight has changed or moved: what was prepared for it, or decoded from it, is forgotten."""
        self._forget()
        Turns.forget(self)

    def type_of(self, dtype: torch.dtype) -> torch.dtype:
        """What its matrices are decoded to: `dtype` where one kernel does that for all, else integers."""
        found = self._types.get(dtype)
        if found is None:
            natural = {TO_TORCH[w.natural] for w in self.weights}
            found = dtype if all(_fused_type(w, dtype) for w in self.weights) else natural.pop() if len(natural) == 1 else torch.int16
            self._types[dtype] = found
        return found

    def places(self, element: torch.dtype) -> tuple[list[int], int]:
        """Where each matrix begins, in bytes, and the whole."""
        found = self._places.get(element)
        if found is None:
            starts, at = [], 0
            for w in self.weights:
                starts.append(at)
                at += -(-w.rows * w.cols * element.itemsize // _PLACE) * _PLACE
            found = self._places[element] = starts, at
        return found

    def decode(self, gpu: Gpu, slab: Slab, element: torch.dtype, stream: int) -> None:
        """Queues the decoding of all into the slab."""
        key = gpu.index, slab.address, element, stream
        prepared = self._prepared.get(key)
        if prepared is None:
            if len(self._prepared) > 8:  # slabs come and go
                self._prepared.clear()
            places = [slab.address + start for start in self.places(element)[0]]
            matrices = [w.on(gpu) for w in self.weights]
            if self.weights[0].codec == "zstd":
                batch = zstd.ZstdBatch(matrices, places, stream)
                prepared = batch.run
            else:
                sizes = [w.rows * w.cols * element.itemsize for w in self.weights]
                prepared = gpu.prepare_decode(matrices, list(zip(places, sizes)), FROM_TORCH[element], stream)
            self._prepared[key] = prepared
        prepared()


class Slab:
    """Device memory that holds one decoded block at a time."""

    def __init__(self, gpu: Gpu, nbytes: int, stream: int):
        self._memory = gpu.buffer(1, nbytes, "int8", stream)
        self._bytes = torch.from_dlpack(self._memory).view(-1)
        self._views: dict = {}
        self.nbytes, self.address = nbytes, self._memory.data_ptr
        self.owner: Block | None = None
        self.element: torch.dtype | None = None
        self.unused: set[int] = set()
        self.ready: torch.cuda.Event | None = None  # of the stream that filled it, if that was another one

    def use(self, stream: int) -> None:
        """Lets work on another stream use the memory."""
        n.call("cllm_buffer_use", self._memory._handle, stream)

    def settle(self, block: Block, element: torch.dtype) -> None:
        self.owner, self.element, self.unused = block, element, set(range(len(block.weights)))

    def view(self, block: Block, index: int) -> torch.Tensor:
        """Matrix `index` of the block that is in it."""
        self.unused.discard(index)
        w = block.weights[index]
        start = block.places(self.element)[0][index]
        key = start, w.rows, w.cols, self.element
        found = self._views.get(key)
        if found is None:
            found = self._bytes[start : start + w.rows * w.cols * self.element.itemsize].view(self.element).view(w.rows, w.cols)
            self._views[key] = found
        return found


class Turns:
    """Decoded blocks of one device and stream: `slots` slabs (1, or 2 to decode one block ahead)."""

    _all: dict = {}

    def __init__(self, gpu: Gpu, stream: int, slots: int):
        self._gpu, self._stream = gpu, stream
        self._slabs: list[Slab | None] = [None] * slots
        self._turn = 0
        self._side = torch.cuda.Stream(gpu.index) if slots > 1 and gpu.is_cuda else None

    @classmethod
    def of(cls, gpu: Gpu, ahead: bool) -> Turns:
        key = (gpu.index, gpu.dl_device, raw_stream(gpu), ahead)
        if key not in cls._all:
            cls._all[key] = cls(gpu, key[2], 2 if ahead else 1)
        return cls._all[key]

    @classmethod
    def forget(cls, block: Block | None = None) -> None:
        """Gives the memory of all slabs back; or only lets a block be decoded anew."""
        if block is None:
            cls._all.clear()
            return
        for slab in (s for t in cls._all.values() for s in t._slabs if s and s.owner is block):
            slab.owner = None

    def _slab(self, index: int, block: Block, element: torch.dtype) -> Slab:
        _, nbytes = block.places(element)
        slab = self._slabs[index]
        if slab is None or slab.nbytes < nbytes:
            # The old one lives on while views of it do; its memory goes back in the order of the streams.
            slab = self._slabs[index] = Slab(self._gpu, nbytes, self._stream)
            if self._side is not None:
                slab.use(self._side.cuda_stream)
        return slab

    def _fill(self, index: int, block: Block, element: torch.dtype) -> Slab:
        """Decodes on the current stream, behind whatever the side stream does there."""
        slab = self._slab(index, block, element)
        if slab.ready is not None:
            slab.ready.wait()
            slab.ready = None
        block.decode(self._gpu, slab, element, self._stream)
        slab.settle(block, element)
        return slab

    def _fill_ahead(self, index: int, block: Block, element: torch.dtype) -> None:
        slab = self._slab(index, block, element)
        if self._side is None:  # memory of the host: nothing runs beside it
            block.decode(self._gpu, slab, element, 0)
        else:
            # What was queued until now uses the slab's old content; only then may it be overwritten.
            self._side.wait_stream(torch.cuda.current_stream(self._gpu.index))
            block.decode(self._gpu, slab, element, self._side.cuda_stream)
            slab.ready = self._side.record_event()
        slab.settle(block, element)

    def weight(self, block: Block, index: int, dtype: torch.dtype) -> torch.Tensor:
        """Matrix `index` of the block as `dtype`. A block is decoded when a matrix of it is wanted that is not there, or for the second
        time: then the model has come round to it again."""
        element = block.type_of(dtype)
        slab = next((s for s in self._slabs if s and s.owner is block and s.element == element and index in s.unused), None)
        if slab is None:
            slab = self._fill(self._turn, block, element)
        if len(self._slabs) > 1 and len(slab.unused) == len(block.weights):  # the first of the block: time to decode the next
            if slab.ready is not None:
                slab.ready.wait()
                slab.ready = None
            mine = self._slabs.index(slab)
            self._turn = 1 - mine
            if block.next is not block:
                self._fill_ahead(self._turn, block.next, block.next.type_of(dtype))
        view = slab.view(block, index)
        return view if element == dtype else from_integers(view, block.weights[index], dtype)


def check_path(path: str, codec_name: str) -> str:
    if path not in PATHS:
        raise ArgumentError(f"'{path}' is no path; there are {', '.join(PATHS)}")
    if codec_name == "zstd" and path not in ZSTD_PATHS:
        raise ArgumentError(f"codec zstd has no path '{path}'; it has {', '.join(ZSTD_PATHS)}")
    return path
