"""CompressedLinear and CompressedEmbedding: drop-ins whose weights stay compressed in memory."""

from __future__ import annotations

from ctypes import byref

import torch
from torch import nn

from .. import _native as n
from ..codec import warn_fallback
from ..errors import ArgumentError, DeviceError, OutOfMemory, Unsupported
from ..gpu import Gpu
from . import paths
from .weight import CodedWeight, gpu_of

MAX_FUSED_ROWS = 8  # of x in one product; with more, decoding once and torch's own product are faster
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # not in builds without CUDA, which have no CUDA tensors either
_CODES = {torch.bfloat16: n.BF16, torch.float16: n.F16, torch.float32: n.F32}


class Siblings:
    """Matrices that are multiplied with the same x (q, k and v; gate and up): the first one's call computes all in one launch, and the
    others take what is theirs, if they are given the very same x. A matrix alone is the only one of its group.

    run() is called for every linear and token, and a token of a small model takes a GPU less time than Python: what can be known before is
    kept in a plan for each shape of x.
    """

    __slots__ = ("members", "x", "version", "stream", "results", "plans", "jobs", "matrices", "error", "multiply")

    def __init__(self, members: list[CompressedLinear]):
        self.members, self.version, self.stream = members, 0, 0
        self.renew()

    def renew(self) -> None:
        """Forgets what was prepared and computed."""
        self.x = self.results = self.jobs = self.matrices = None
        self.plans = {}

    def _plan(self, x: torch.Tensor):
        """None where these cannot be fused: no GPU, too many rows, an x that is none."""
        first = self.members[0]
        if x.shape[-1] != first.in_features or x.dtype not in _CODES:
            return None
        rows = x.numel() // first.in_features
        gpu = first._gpu(x.device) if 0 < rows <= MAX_FUSED_ROWS else None
        if gpu is None:
            return None
        if self.matrices is None or self.matrices[0].gpu is not gpu:
            self.matrices = [m.coded.on(gpu) for m in self.members]  # alive as long as the jobs name them
            self.jobs = (n.MultiplyJob * len(self.members))()
            for job, m, matrix in zip(self.jobs, self.members, self.matrices, strict=True):
                job.tensor, job.y_stride = matrix._handle, m.out_features
            self.error = n.CError()
            self.multiply = n.hot("cllm_gpu_multiply")
            self.plans.clear()
        # A y that is like x is made faster (shape None).
        shapes = [(*x.shape[:-1], m.out_features) for m in self.members]
        each = [(job, m, None if s == x.shape else s, m.bias is not None) for job, m, s in zip(self.jobs, self.members, shapes)]
        plan = gpu._handle, gpu.index if gpu.is_cuda else -1, rows, x.shape[-1], _CODES[x.dtype], each, byref(self.error)
        if len(self.plans) > 64:  # shapes come and go
            self.plans.clear()
        self.plans[x.shape, x.dtype, x.get_device()] = plan
        return plan

    def run(self, place: int, x: torch.Tensor) -> torch.Tensor | None:
        """y of member `place`. None: not on this path."""
        if x is self.x:
            y = self.results[place]
            if y is not None and x._version == self.version and (not x.is_cuda or _raw_stream(x.get_device()) == self.stream):
                self.results[place] = None  # handed out once
                if place == len(self.members) - 1:
                    self.x = self.results = None
                return y
        plan = self.plans.get((x.shape, x.dtype, x.get_device())) or self._plan(x)
        if plan is None or (x.requires_grad and torch.is_grad_enabled()):
            return None
        inference = x.is_inference()  # such tensors do not tell whether they were changed
        if len(self.members) > 1 and (place or inference):
            return self.members[place]._alone.run(0, x)
        handle, index, rows, cols, code, each, error = plan
        stream = _raw_stream(index) if index >= 0 else 0
        dense = x if x.is_contiguous() else x.contiguous()
        results = []
        for job, m, shape, biased in each:
            y = torch.empty_like(dense) if shape is None else x.new_empty(shape)
            job.y = y.data_ptr()
            if biased:
                bias = m._parameters["bias"]
                if bias.dtype != x.dtype or bias.device != x.device:
                    raise ArgumentError(f"bias is {bias.dtype} on {bias.device}, x is {x.dtype} on {x.device}")
                job.bias = bias.data_ptr()
            results.append(y)
        if self.multiply(handle, self.jobs, len(each), dense.data_ptr(), cols, rows, code, stream, error):
            raise n.fail(self.error)
        y = results[0]
        if len(results) > 1:
            results[0] = None
            self.x, self.version, self.stream, self.results = x, x._version, stream, results
        return y


class _Compressed(nn.Module):
    """What both modules share: the coded weight, where it is, its state."""

    def __init__(self, coded: CodedWeight, path: str, strict: bool, device=None):
        super().__init__()
        self.path = paths.check_path(path, coded.codec)
        self.strict = strict
        # Moves with the module and tells where it is; holds nothing.
        self.register_buffer("_probe", torch.empty(0, dtype=torch.uint8, device=device), persistent=False)
        self._ready: tuple[torch.device, Gpu | None] | None = None
        self.coded = coded
        self._shared = False  # whether another module has the bytes in its state
        coded.users.add(self)

    def renew(self) -> None:
        """The coded weight has changed: what was prepared with it is forgotten."""
        self._ready = None

    def __getstate__(self):  # of copies and pickles
        return {**self.__dict__, "_ready": None}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.coded.users.add(self)

    # ---- where it is ----

    def _gpu(self, device: torch.device) -> Gpu | None:
        """The GPU of that device, the weight being there; None: the CPU has to decode. The answer is kept until the module moves."""
        if self._ready is not None and self._ready[0] == device:
            return self._ready[1]
        gpu = None
        if self.path != "cpu":
            try:
                gpu = gpu_of(device)
                self.coded.on(gpu)
            except (Unsupported, DeviceError, OutOfMemory) as e:
                if self.strict:
                    raise
                gpu = None
                warn_fallback(f"path {self.path}", e)
        self._ready = (device, gpu)
        return gpu

    def _moved(self) -> None:
        """Uploads where the module is now, and gives up the copy where it was."""
        device = self._probe.device
        if device.type == "meta":
            return
        before = self._ready
        if before is not None and before[0] == device:
            return
        self._ready = None
        if before is not None and before[1] is not None and not self._shared:
            self.coded.forget(before[1])
        if device.type == "cuda":
            self._gpu(device)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._moved()
        return self

    # ---- state ----

    @property
    def _key(self) -> str:
        return "weight_cllm" if self.coded.codec == "tile" else "weight_zstd"

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self._shared:
            destination[prefix + self._key] = self.coded.state()

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        key = prefix + self._key
        data = state_dict.pop(key, None)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if data is None:
            if not self._shared:
                missing_keys.append(key)
            return
        state_dict[key] = data
        try:
            self.coded.reload(data.cpu().contiguous().numpy().copy())
        except (ValueError, RuntimeError) as e:
            error_msgs.append(f"{key}: {e}")

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weights that it computes with, decoded on the CPU."""
        return self.coded.decode_host(dtype)


class CompressedLinear(_Compressed):
    """y = x W^T + bias, W compressed: a drop-in for nn.Linear. For inference: gradients reach x, W has none.

    coded: out_features x in_features. bias: a tensor or None; of the type of x. path: see codecllm.torch.paths; "fused" (the default) decodes
    inside of the product for up to 8 rows of x. x is float16, bfloat16 or float32. strict: raise where a GPU path cannot be used instead
    of decoding on the CPU with one FallbackWarning. Corrupt tiles on a GPU: codecllm.torch.check(model) tells.
    """

    def __init__(self, coded: CodedWeight, bias: torch.Tensor | None = None, *, path: str = "fused", strict: bool = False, device=None):
        super().__init__(coded, path, strict, device)
        self.out_features, self.in_features = coded.rows, coded.cols
        if bias is not None and bias.shape != (coded.rows,):
            raise ArgumentError(f"bias has shape {tuple(bias.shape)}, not ({coded.rows},)")
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().to(device), requires_grad=False))
        self._unlink()

    def _unlink(self) -> None:
        """By itself, until link() tells who it runs with."""
        self.block = paths.Block("", [self.coded])
        self._in_block = 0
        self._alone = Siblings([self])
        self._siblings: Siblings = self._alone
        self._place = 0

    def __getstate__(self):  # a copy of one linear is not to bring its whole layer along
        return {k: v for k, v in super().__getstate__().items() if k not in ("block", "_alone", "_siblings")}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._unlink()

    def renew(self) -> None:
        super().renew()
        self.block.renew()
        self._alone.renew()
        self._siblings.renew()

    def _moved(self) -> None:
        super()._moved()
        self.block.renew()
        self._alone.renew()
        self._siblings.renew()

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, mode: str = "rd", bpw: float = 4.5, codec: str = "tile", path: str = "fused", profile: str = "fast",
                    threads: int = 0, strict: bool = False) -> CompressedLinear:
        """Encodes its weight. Raises Unsupported where it does not shrink, ArgumentError for NaN and infinity."""
        paths.check_path(path, codec)
        coded = CodedWeight.encode(linear.weight, mode=mode, bpw=bpw, codec_name=codec, profile=profile, threads=threads)
        return cls(coded, linear.bias, path=path, strict=strict, device=linear.weight.device)

    def set_path(self, path: str) -> None:
        """Chooses another path; weights stay where they are."""
        self.path = paths.check_path(path, self.coded.codec)
        self._ready = None
        self._alone.renew()
        self._siblings.renew()

    def decoded(self, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """The weight as its path makes it."""
        gpu = self._gpu(device)
        path = self.path if gpu is not None else "cpu"
        if path == "cpu":
            return paths.on_cpu(self.coded, device, dtype)
        if path == "gpu":
            return paths.on_gpu(self.coded, gpu, dtype)
        if path in ("gpu-batched", "gpu-overlap"):
            return paths.Turns.of(gpu, path == "gpu-overlap").weight(self.block, self._in_block, dtype)
        return paths.dequantized(self.coded, gpu, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.path == "fused":
            y = self._siblings.run(self._place, x)
            if y is not None:
                return y
        if x.shape[-1] != self.in_features or x.dtype not in _CODES:
            raise ArgumentError(f"x is {tuple(x.shape)} of {x.dtype}; wanted: (..., {self.in_features}) of float16, bfloat16 or float32")
        return nn.functional.linear(x, self.decoded(x.device, x.dtype), self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, path={self.path},"
            f" codec={self.coded.codec}, mode={self.coded.mode}, bits={self.coded.bits_per_weight:.3f}"
        )


class CompressedEmbedding(_Compressed):
    """Rows of a compressed matrix: a drop-in for nn.Embedding, codec tile.

    dtype: of what it gives. Ids outside of the matrix: IndexError on the CPU; on a GPU they are clamped to it. Paths other than "cpu" are one.
    """

    def __init__(self, coded: CodedWeight, *, dtype: torch.dtype, padding_idx: int | None = None, path: str = "fused", strict: bool = False,
                 device=None):
        if coded.codec != "tile":
            raise ArgumentError("an embedding is of codec tile")
        super().__init__(coded, path, strict, device)
        self.num_embeddings, self.embedding_dim, self.padding_idx = coded.rows, coded.cols, padding_idx
        # A number of that type: .to(dtype) and .half() change what the module gives.
        self.register_buffer("_type", torch.empty(0, dtype=dtype, device=device), persistent=False)

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding, *, mode: str = "rd", bpw: float = 4.5, path: str = "fused", profile: str = "fast",
                       threads: int = 0, strict: bool = False) -> CompressedEmbedding:
        w = embedding.weight
        coded = CodedWeight.encode(w, mode=mode, bpw=bpw, codec_name="tile", profile=profile, threads=threads)
        return cls(coded, dtype=w.dtype, padding_idx=embedding.padding_idx, path=path, strict=strict, device=w.device)

    def set_path(self, path: str) -> None:
        self.path = paths.check_path(path, self.coded.codec)
        self._ready = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        dtype = self._type.dtype
        gpu = self._gpu(ids.device)
        if gpu is None:
            return self.coded.rows_host(ids.cpu(), dtype).to(ids.device)
        flat = ids.reshape(-1).to(torch.int32)
        out = torch.empty(flat.numel(), self.embedding_dim, dtype=torch.float32, device=ids.device)
        handle = self.coded.on(gpu)._handle
        n.call("cllm_gpu_rows", gpu._handle, handle, flat.data_ptr(), flat.numel(), out.data_ptr(), self.embedding_dim, paths.raw_stream(gpu))
        return out.to(dtype).view(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, path={self.path}, mode={self.coded.mode}, bits={self.coded.bits_per_weight:.3f}"

