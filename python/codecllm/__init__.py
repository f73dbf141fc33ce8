"""CodecLLM: entropy-coded weights of language models, decoded on the CPU, into GPU memory, or inside the matrix products that use them.

    Encoder, Decoder            int8 matrices to bytes and back (NumPy), or straight into GPU memory (DeviceTensor, DLPack)
    encode, encode_int8         matrices to tile blobs; Tensor opens one
    Store                       the tensors of a directory that `codecllm compress` wrote
    Gpu, GpuTensor              coded matrices in GPU memory
    codecllm.torch              CompressedLinear, compress_model; needs torch
    codecllm.transformers       from_pretrained of compressed directories; needs transformers. Importing it registers the format

Threads, ownership and errors are told with each class; docs/PYTORCH.md is the way in.
"""

from ._native import version as library_version
from .codec import Decoder, Encoder
from .errors import (
    ArgumentError, DeviceError, Error, FallbackWarning, FileError, FormatError, OutOfMemory, UncheckedWarning, Unsupported,
)
from .gpu import DeviceTensor, Gpu, GpuTensor, device_info
from .tensor import Entry, Store, Tensor, encode, encode_int8

__version__ = "0.1.0"

__all__ = [
    "ArgumentError", "Decoder", "DeviceError", "DeviceTensor", "Encoder", "Entry", "Error", "FallbackWarning", "FileError", "FormatError", "Gpu",
    "GpuTensor", "OutOfMemory", "Store", "Tensor", "UncheckedWarning", "Unsupported", "device_info", "encode", "encode_int8", "library_version",
]
