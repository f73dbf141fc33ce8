"""CodecLLM for transformers: importing this module registers the quantization method `codecllm`.

    import codecllm.transformers
    model = AutoModelForCausalLM.from_pretrained(OUT, device_map="cuda")     # OUT: what `codecllm compress DIR -o OUT` wrote
    model.save_pretrained(OUT2)                                              # and such a directory again

Also at loading time, from an uncompressed directory: from_pretrained(DIR, quantization_config=CodecllmConfig(mode="rd", bits=4.5)).
"""

from __future__ import annotations

import functools
import os
import warnings

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ._native import call
from .errors import FormatError, UncheckedWarning, Unsupported
from .torch import CompressedEmbedding, CompressedLinear, compress_model, link
from .torch.compress import modules_of
from .torch.weight import CodedWeight

METHOD = "codecllm"
MANIFEST = "codecllm.json"
FORMAT_VERSION = 1
SUFFIX = "_cllm"


@register_quantization_config(METHOD)
class CodecllmConfig(QuantizationConfigMixin):
    """`quantization_config` of a compressed directory; and what from_pretrained is to make of an uncompressed one.

    mode: "rd", "int8" or "lossless"; bits: bits per weight (of a directory: measured; to be made: asked for, mode rd). Only for making: skip,
    regular expressions of linears to keep; embeddings: compress them too. Of both: path, strict (codecllm.torch.CompressedLinear).
    """

    def __init__(self, mode: str = "rd", bits: float = 4.5, format_version: int = FORMAT_VERSION, skip=(), embeddings: bool = True,
                 path: str = "fused", strict: bool = False, **kwargs):
        self.quant_method = METHOD
        self.mode, self.bits, self.format_version = mode, bits, format_version
        self.skip, self.embeddings, self.path, self.strict = skip, embeddings, path, strict

    def to_dict(self) -> dict:
        """What config.json has: docs/FORMAT.md part 2."""
        return {"quant_method": METHOD, "format_version": self.format_version, "mode": self.mode, "bits": self.bits}

    def to_diff_dict(self) -> dict:
        return self.to_dict()


class _Shell(nn.Module):
    """Stands where a compressed module will be while transformers loads: takes the blob as a buffer, and keeps its bytes on the host."""

    def __init__(self, original: nn.Module, blob_bytes: int | None):
        super().__init__()
        self.__dict__["original"] = original  # not a submodule: its parameters are not to be loaded
        self.__dict__["blob"] = None
        self.__dict__["device"] = None
        if isinstance(original, nn.Linear):
            self.register_parameter("bias", original.bias)
        if blob_bytes is not None:
            self.register_buffer("weight" + SUFFIX, torch.empty(blob_bytes, dtype=torch.uint8, device="meta"))

    def __setattr__(self, name, value):
        if name == "weight" + SUFFIX and value.device.type != "meta":
            self.__dict__["device"] = value.device
            self.__dict__["blob"] = value.detach().to("cpu").contiguous().numpy().copy()
            placeholder = torch.empty(0, dtype=torch.uint8, device=value.device)
            placeholder._is_hf_initialized = True
            value = placeholder
        super().__setattr__(name, value)


def _find_module(model: nn.Module, name: str) -> tuple[str, nn.Module] | None:
    """The module a checkpoint's name means; models of a base class have it without, or with, a prefix."""
    prefix = getattr(model, "base_model_prefix", "")
    candidates = [name]
    if prefix:
        candidates += [name.removeprefix(prefix + "."), f"{prefix}.{name}"]
    for candidate in candidates:
        try:
            return candidate, model.get_submodule(candidate)
        except AttributeError:
            continue
    return None


def _stored_in(files) -> tuple[dict[str, int], set[str]]:
    """Bytes of each coded matrix in safetensors files, by its name without suffix; and the names of what is stored as it is."""
    from safetensors import safe_open

    found, plain = {}, set()
    for file in files or []:
        with safe_open(file, framework="pt") as f:
            for key in f.keys():
                if key.endswith(SUFFIX):
                    found[key.removesuffix(SUFFIX)] = f.get_slice(key).get_shape()[0]
                else:
                    plain.add(key)
    return found, plain


def _check_hashes(files) -> None:
    """The directory of safetensors files against its manifest: FormatError names the tensor or file that differs."""
    for folder in sorted({os.path.dirname(os.path.abspath(file)) for file in files or []}):
        if os.path.lexists(os.path.join(folder, MANIFEST)):
            call("cllm_check_hashes", os.fsencode(folder), True, None, None)
        else:
            warnings.warn(f"{folder} has no {MANIFEST}: whether its weights are what was written cannot be checked", UncheckedWarning, stacklevel=2)


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


@register_quantizer(METHOD)
class CodecllmQuantizer(HfQuantizer):
    """Puts compressed modules in place of linears and embeddings while from_pretrained loads."""

    requires_calibration = False
    requires_parameters_quantization = False

    def validate_environment(self, *args, **kwargs):
        version = self.quantization_config.format_version
        if version != FORMAT_VERSION:
            raise Unsupported(f"the directory has format version {version}; this package reads version {FORMAT_VERSION}")

    # ---- a compressed directory ----

    def _process_model_before_weight_loading(self, model, checkpoint_files=None, **kwargs):
        if not self.pre_quantized:
            return
        _check_hashes(checkpoint_files)
        coded, plain = _stored_in(checkpoint_files)
        tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
        compressed = set()
        for name, blob_bytes in coded.items():
            if not name.endswith(".weight"):
                raise Unsupported(f"{name} is compressed, but is no weight of a linear or an embedding")
            found = _find_module(model, name.removesuffix(".weight"))
            if found is None:  # a head that a base model has not
                continue
            path, module = found
            if type(module) not in (nn.Linear, nn.Embedding):
                raise Unsupported(f"{name} is compressed, but is that of a {type(module).__name__}; linears and embeddings can be loaded")
            _replace(model, path, _Shell(module, blob_bytes))
            compressed.add(path + ".weight")
        # A tied head takes the embedding's bytes where it has none of its own, and the embedding the head's; transformers is not to tie what
        # has no `weight`.
        prefix = getattr(model, "base_model_prefix", "") + "."
        stored = compressed | plain | {prefix + name for name in plain} | {name.removeprefix(prefix) for name in plain}
        self._tied, self._separate = {}, []
        for target, source in tied.items():
            if target in compressed and source in compressed:
                self._separate.append((target.removesuffix(".weight"), source.removesuffix(".weight")))
            for empty, full in ((target, source), (source, target)):
                if full in compressed and empty not in stored:
                    path = empty.removesuffix(".weight")
                    _replace(model, path, _Shell(model.get_submodule(path), None))
                    self._tied[path] = full.removesuffix(".weight")
        if self._tied or compressed:
            model.all_tied_weights_keys = {t: s for t, s in tied.items() if t not in compressed and s not in compressed}

    def _process_model_after_weight_loading(self, model, **kwargs):
        config = self.quantization_config
        if not self.pre_quantized:
            self.report = compress_model(  # marks the model with the bits that came of it
                model, mode=config.mode, bpw=config.bits, skip=config.skip, embeddings=config.embeddings, path=config.path, strict=config.strict
            )
            return model
        shells = {name: m for name, m in model.named_modules() if isinstance(m, _Shell)}
        for target, source in self._separate:
            if not np.array_equal(shells[target].blob, shells[source].blob):
                warnings.warn(f"config.json ties {target} to {source}, but both are stored and differ; each is used as it is stored", stacklevel=2)
        coded: dict[str, CodedWeight] = {}
        for name, shell in shells.items():
            if name in self._tied:
                continue
            if shell.blob is None:
                raise FormatError(f"{name}.weight{SUFFIX} is missing from the directory")
            try:
                coded[name] = CodedWeight(shell.blob)
            except FormatError as e:
                raise FormatError(f"{name}.weight: {e}", e.position) from None
            shell.__dict__["blob"] = None
        for name, shell in shells.items():
            source = self._tied.get(name, name)
            self._finish(model, name, shell, coded[source], shells[source].device, source != name)
        link(model)
        return model

    def _finish(self, model, name, shell: _Shell, weight: CodedWeight, device, shared: bool) -> None:
        original, config = shell.original, self.quantization_config
        linear = isinstance(original, nn.Linear)
        want = (original.out_features, original.in_features) if linear else (original.num_embeddings, original.embedding_dim)
        if (weight.rows, weight.cols) != want:
            raise FormatError(f"{name}.weight holds {weight.rows} x {weight.cols}, but the model wants {want[0]} x {want[1]}")
        if linear:
            new = CompressedLinear(weight, shell.bias, path=config.path, strict=config.strict, device=device)
        else:
            new = CompressedEmbedding(
                weight, dtype=original.weight.dtype, padding_idx=original.padding_idx, path=config.path, strict=config.strict, device=device
            )
        new._shared = shared
        new.train(model.training)
        _replace(model, name, new)
        new._moved()

    # ---- what transformers asks ----

    serializable = True  # not so with codec zstd, which directories do not hold

    def is_serializable(self, *args, **kwargs) -> bool:
        return self.serializable

    @property
    def is_trainable(self) -> bool:
        return False

    def get_state_dict_and_metadata(self, model):
        return model.state_dict(), {}


def attach(model: PreTrainedModel) -> None:
    """Marks a model that compress_model has worked on (which calls this) as compressed: save_pretrained writes what from_pretrained reads.

    Directories hold codec tile: with codec zstd, save_pretrained refuses.
    """
    modules = [m for _, m in modules_of(model)]
    own = {id(m.coded): m.coded for m in modules}
    if not own:
        return
    weights = sum(c.rows * c.cols for c in own.values())
    modes = {c.mode for c in own.values()}
    bits = round(8 * sum(c.nbytes for c in own.values()) / weights, 6)
    config = CodecllmConfig(mode=modes.pop() if len(modes) == 1 else "rd", bits=bits)
    model.config.quantization_config = config
    model.hf_quantizer = CodecllmQuantizer(config, pre_quantized=True)
    model.hf_quantizer.serializable = all(c.codec == "tile" for c in own.values())
    compressed = {name + ".weight" for name, _ in modules_of(model)}
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    model.all_tied_weights_keys = {t: s for t, s in tied.items() if t not in compressed and s not in compressed}


def _drop_stale_manifest(folder) -> None:
    """The manifest of what a folder held before something else was saved there. None is written instead: it lists every file, and others, such as
    the tokenizer's, are mostly saved after the model's."""
    manifest = os.path.join(folder, MANIFEST)
    if os.path.lexists(manifest):
        os.remove(manifest)
        warnings.warn(f"{manifest} told of the weights that were there before, and is removed: those that are there now cannot be checked", UncheckedWarning, stacklevel=3)


def _watch(save):
    """save_pretrained of any model, a compressed one or not; no hook of a quantizer learns of the folder."""

    @functools.wraps(save)
    def save_pretrained(self, save_directory, is_main_process=True, *args, **kwargs):
        result = save(self, save_directory, is_main_process, *args, **kwargs)
        if is_main_process and os.path.isdir(save_directory):
            _drop_stale_manifest(save_directory)
        return result

    save_pretrained._codecllm = True
    return save_pretrained


if not hasattr(PreTrainedModel.save_pretrained, "_codecllm"):
    PreTrainedModel.save_pretrained = _watch(PreTrainedModel.save_pretrained)


__all__ = ["CodecllmConfig", "CodecllmQuantizer", "attach"]
