"""Whole models: every linear replaced, linked into blocks and siblings, moved from path to path, checked."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import nn

from ..errors import ArgumentError, Unsupported
from ..gpu import Gpu
from . import paths
from .linear import CompressedEmbedding, CompressedLinear, Siblings, _Compressed
from .weight import CodedWeight

# Names of matrices in one module that are multiplied with the same x.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"), ("query", "key", "value"))


@dataclass
class Item:
    """One linear (or embedding): what was done with it, and why not more."""

    name: str
    shape: tuple[int, int]
    action: str  # "compressed", "kept"
    reason: str = ""
    mode: str = ""
    bits: float = 0.0
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass
class Report:
    """What compress_model did: `items` in the order of the model; print it."""

    items: list[Item] = field(default_factory=list)

    @property
    def compressed(self) -> list[Item]:
        return [i for i in self.items if i.action == "compressed"]

    @property
    def kept(self) -> list[Item]:
        return [i for i in self.items if i.action == "kept"]

    @property
    def bytes_before(self) -> int:
        return sum(i.bytes_before for i in self.compressed)

    @property
    def bytes_after(self) -> int:
        return sum(i.bytes_after for i in self.compressed)

    @property
    def bits_per_weight(self) -> float:
        weights = sum(i.shape[0] * i.shape[1] for i in self.compressed if i.bytes_after)
        return 8 * self.bytes_after / weights if weights else 0.0

    def __str__(self) -> str:
        lines = [
            f"{i.name}: {i.shape[0]} x {i.shape[1]}, "
            + (f"{i.mode}, {i.bits:.3f} bits per weight, {i.bytes_before} -> {i.bytes_after} bytes" if i.action == "compressed" else "kept")
            + (f" ({i.reason})" if i.reason else "")
            for i in self.items
        ]
        lines.append(
            f"{len(self.compressed)} compressed, {len(self.kept)} kept: {self.bytes_before} -> {self.bytes_after} bytes,"
            f" {self.bits_per_weight:.3f} bits per weight"
        )
        return "\n".join(lines)


def modules_of(model: nn.Module) -> Iterator[tuple[str, _Compressed]]:
    for name, m in model.named_modules():
        if isinstance(m, _Compressed):
            yield name, m


def _block_name(name: str) -> str:
    """"model.layers.3" of "model.layers.3.mlp.up_proj": up to the last number; what has none is a block of its own."""
    m = re.match(r"(.*?\.\d+|\d+)(\.|$)", name)
    return m.group(1) if m else name


def link(model: nn.Module) -> None:
    """Tells the compressed linears of a model who runs with whom: blocks for gpu-batched and gpu-overlap, siblings for fused.

    compress_model, from_pretrained and set_path do so; call it after putting modules in by hand, and for a model that was copied or unpickled.
    """
    blocks: dict[str, list[tuple[str, CompressedLinear]]] = {}
    for name, m in modules_of(model):
        if isinstance(m, CompressedLinear):
            blocks.setdefault(_block_name(name) + "/" + m.coded.codec, []).append((name, m))
    made = []
    for key, members in blocks.items():
        block = paths.Block(key, [m.coded for _, m in members])
        made.append(block)
        for i, (_, m) in enumerate(members):
            m.block, m._in_block = block, i
    for block, following in zip(made, made[1:] + made[:1]):
        block.next = following
    for module in model.modules():
        for names in SIBLINGS:
            found = [module._modules.get(name) for name in names]
            found = [m for m in found if isinstance(m, CompressedLinear) and m.coded.codec == "tile"]
            if len(found) == len(names) and len({m.in_features for m in found}) == 1:
                group = Siblings(found)
                for i, m in enumerate(found):
                    m._siblings, m._place = group, i


def _rows_together(model: nn.Module) -> dict[int, int]:
    """Of linears that fused multiplies in one launch: the rows of all, by the id of each."""
    rows = {}
    for module in model.modules():
        for names in SIBLINGS:
            found = [module._modules.get(name) for name in names]
            if all(isinstance(m, nn.Linear) for m in found) and len({m.in_features for m in found}) == 1:
                rows.update((id(m), sum(m.out_features for m in found)) for m in found)
    return rows


def set_path(model: nn.Module, path: str) -> None:
    """Lets every compressed module of the model take another path. Memory of the block paths is given back."""
    gpus = gpus_of(model)
    for _, m in modules_of(model):
        m.set_path(path)
    link(model)
    paths.Turns.forget()
    for gpu in gpus:
        gpu.trim()


def gpus_of(model: nn.Module) -> list[Gpu]:
    found: dict[int, Gpu] = {}
    for _, m in modules_of(model):
        if m._ready is not None and m._ready[1] is not None:
            found[m._ready[1].index] = m._ready[1]
    return list(found.values())


def check(model: nn.Module) -> None:
    """Waits for the GPUs the model has run on (their current streams). Raises FormatError if a tile was corrupt, DeviceError if a kernel
    failed: then what was computed since the last check is not to be trusted."""
    for gpu in gpus_of(model):
        gpu.check(paths.raw_stream(gpu))


def memory(model: nn.Module) -> dict[str, int]:
    """Bytes of device memory held outside of torch's allocator on the model's GPUs: tensors, buffers, buffers_peak, workspaces."""
    total = {"tensors": 0, "buffers": 0, "buffers_peak": 0, "workspaces": 0}
    for gpu in gpus_of(model):
        for k, v in gpu.memory().items():
            total[k] += v
    return total


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def compress_model(
    model: nn.Module, *, mode: str = "rd", bpw: float = 4.5, skip: Iterable[str] = (), codec: str = "tile", path: str = "fused",
    embeddings: bool = False, profile: str = "fast", threads: int = 0, strict: bool = False, progress=None, trellis: bool = True,
) -> Report:
    """Replaces every nn.Linear of the model, in place, and says what it did.

    mode: "rd" with bpw bits per weight for each matrix (codec tile), "int8" or "lossless". skip: regular expressions; a linear whose name one
    of them is found in is kept. embeddings: nn.Embedding too (codec tile); a linear that shares its weight with an embedding is compressed
    only then, once for both. profile: "fast" (a GPU's look-ups) or "small". threads: of the encoder, 0 = one per core. strict: see
    CompressedLinear. progress(done, total, name) is called for each matrix. trellis: see codecllm.encode.

    Linears that cannot be compressed (no gain, weights that are not finite numbers, a subclass of nn.Linear) are kept and reported with the
    reason. Modules stay on their device; torch's copy of a weight is freed as soon as it is replaced.
    """
    paths.check_path(path, codec)
    patterns = [re.compile(s) for s in ([skip] if isinstance(skip, str) else skip)]
    report = Report()
    shared: dict[int, str] = {}  # parameters that embeddings have, by id
    for name, m in model.named_modules():
        if isinstance(m, nn.Embedding):
            shared[id(m.weight)] = name
    work = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) or (embeddings and isinstance(m, nn.Embedding))]
    together = _rows_together(model)
    done: dict[int, tuple[str, CodedWeight]] = {}  # coded weights by the parameter they were made from
    for index, (name, m) in enumerate(work):
        weight = m.weight
        item = Item(name, tuple(weight.shape), "kept")
        report.items.append(item)
        linear = isinstance(m, nn.Linear)
        hit = next((p.pattern for p in patterns if p.search(name)), None)
        if hit is not None:
            item.reason = f"skipped by '{hit}'"
        elif linear and type(m) is not nn.Linear and type(m).__name__ != "NonDynamicallyQuantizableLinear":
            item.reason = f"a {type(m).__name__}, not a plain nn.Linear"
        elif type(m) not in (nn.Linear, nn.Embedding) and not linear:
            item.reason = f"a {type(m).__name__}, not a plain nn.Embedding"
        elif linear and id(weight) in shared and not embeddings:
            item.reason = f"shares its weight with {shared[id(weight)]}: embeddings=True compresses both"
        elif not linear and (m.max_norm is not None or codec != "tile"):
            item.reason = "embeddings with max_norm, or of codec zstd, are not compressed"
        else:
            try:
                first = done.get(id(weight))
                if first is None:
                    made = CodedWeight.encode(
                        weight, mode=mode, bpw=bpw, codec_name=codec, profile=profile, threads=threads, rows_together=together.get(id(m), 0),
                        trellis=trellis,
                    )
                    done[id(weight)] = (name, made)
                else:
                    made = first[1]
            except (ArgumentError, Unsupported) as e:
                item.reason = str(e)
            else:
                new = (
                    CompressedLinear(made, m.bias, path=path, strict=strict, device=weight.device)
                    if linear
                    else CompressedEmbedding(made, dtype=weight.dtype, padding_idx=m.padding_idx, path=path, strict=strict, device=weight.device)
                )
                new._shared = first is not None
                new.train(m.training)
                _replace(model, name, new)
                new._moved()
                item.action, item.mode, item.bits = "compressed", made.mode, made.bits_per_weight
                if first is None:
                    item.bytes_before, item.bytes_after = weight.numel() * weight.element_size(), made.nbytes
                else:
                    item.reason = f"the bytes of {first[0]}"
        del weight, m
        work[index] = (name, None)
        if progress:
            progress(index + 1, len(work), name)
    link(model)
    _mark(model)
    return report


def _mark(model: nn.Module) -> None:
    """Models of transformers are told that they are compressed, so that save_pretrained writes what from_pretrained reads."""
    transformers = sys.modules.get("transformers")
    if transformers is not None and isinstance(model, transformers.PreTrainedModel):
        from ..transformers import attach

        attach(model)


__all__ = ["Item", "Report", "check", "compress_model", "link", "memory", "modules_of", "set_path"]
