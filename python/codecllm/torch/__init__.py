"""CodecLLM for PyTorch: linears whose weights stay compressed in GPU memory.

    from codecllm.torch import compress_model
    print(compress_model(model, mode="rd", bpw=4.25))

Threads: like torch's modules; one forward pass at a time for each model. Not for torch.compile, which cannot look into the calls.
"""

from .compress import Item, Report, check, compress_model, link, memory, set_path
from .linear import MAX_FUSED_ROWS, CompressedEmbedding, CompressedLinear
from .paths import PATHS, ZSTD_PATHS
from .weight import CodedWeight

__all__ = [
    "CodedWeight", "CompressedEmbedding", "CompressedLinear", "Item", "MAX_FUSED_ROWS", "PATHS", "Report", "ZSTD_PATHS", "check", "compress_model",
    "link", "memory", "set_path",
]
