"""Generation with compressed weights in PyTorch, path by path: how fast, how much memory, the same text or not.

    python examples/torch_inference.py DIR                        a model directory of transformers
    python examples/torch_inference.py --synthetic tinyllama      random weights in TinyLlama-1.1B's shape; nothing is downloaded
    python examples/torch_inference.py models/tiny --device cpu   without a GPU: every path falls back to the CPU, and says so

What it does: load, generate (the baseline), compress every linear in place, generate with each path of codec tile; then, with
INT8 weights, with the paths of codec zstd (nvCOMP on the GPU). At the end the decoded weights go into plain nn.Linear and generate once more:
that is the text each path has to give. Needs torch and transformers; docs/PYTORCH.md explains the paths.
"""

import argparse
import gc
import json
import os
import sys
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import codecllm
from codecllm.torch import PATHS, ZSTD_PATHS, CompressedEmbedding, CompressedLinear, check, compress_model, memory, set_path

SHAPES = {
    "tinyllama": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4, vocab_size=32000),
    "mini": dict(hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=1000),
}


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", nargs="?", help="model directory")
    p.add_argument("--synthetic", choices=SHAPES, help="random weights of this shape instead of a directory")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    p.add_argument("--prompt", default="Once upon a time")
    p.add_argument("--tokens", type=int, nargs="+", default=[10, 128], help="how many to generate; a table for each")
    p.add_argument("--bpw", type=float, default=4.2, help="bits per weight of codec tile (mode rd)")
    p.add_argument("--paths", nargs="+", default=list(PATHS), choices=PATHS)
    p.add_argument("--codecs", nargs="*", default=["tile", "zstd"], choices=("tile", "zstd"), help="without any, only the uncompressed model is measured")
    p.add_argument("--embeddings", action=argparse.BooleanOptionalAction, default=True, help="compress the embedding too (codec tile)")
    p.add_argument("--repeat", type=int, default=3, help="the fastest of so many generations counts; no other begins after 5 s")
    p.add_argument("--profile", metavar="PATH", nargs="+", default=[], help="print what the GPU does in 3 tokens of these paths")
    p.add_argument("--json", metavar="FILE", help="write the tables there too")
    a = p.parse_args()
    if (a.model is None) == (a.synthetic is None):
        p.error("a model directory, or --synthetic")
    if a.profile and not a.codecs:
        p.error("--profile is of paths, which need a codec")
    return a


def say(*text):
    print(*text, flush=True)


def load(a):
    """The uncompressed model on its device, and the prompt's tokens."""
    dtype = getattr(torch, a.dtype)
    if a.model:
        model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype).to(a.device)
        ids = AutoTokenizer.from_pretrained(a.model)(a.prompt, return_tensors="pt").input_ids
    else:
        config = LlamaConfig(**SHAPES[a.synthetic], max_position_embeddings=2048, dtype=dtype)
        with torch.device("meta"):
            model = LlamaForCausalLM(config).to(dtype)
        model = model.to_empty(device=a.device)
        generator = torch.Generator(a.device).manual_seed(1)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "norm" in name:
                    p.fill_(1)
                else:
                    p.normal_(0, 0.02, generator=generator)
            for m in model.modules():  # what is computed from the configuration and was empty, too
                if hasattr(m, "inv_freq"):
                    fresh = type(m)(config=config)
                    m.inv_freq = fresh.inv_freq.to(a.device)
                    m.original_inv_freq = m.inv_freq.clone()
        ids = torch.tensor([[1, 450, 767, 310, 263, 931]]) % SHAPES[a.synthetic]["vocab_size"]
    model.eval()
    return model, ids.to(a.device)


def generate(model, ids, n):
    with torch.no_grad():
        return model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=n, max_new_tokens=n, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()


def synchronize(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def reset_peaks(a):
    if a.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            codecllm.Gpu.get(a.device).reset_peak()
        except codecllm.Error:
            pass  # it is told where it is needed


def peaks(a, model):
    """Bytes: the most that torch's tensors took, and what this package holds beside them, with the most its buffers took."""
    if not a.device.startswith("cuda"):
        return 0, 0
    ours = memory(model)
    return torch.cuda.max_memory_allocated(), ours["tensors"] + ours["workspaces"] + ours["buffers_peak"]


def measure(a, model, ids, n, repeat):
    """Seconds of one generation of n tokens, its tokens, peak memory."""
    generate(model, ids, 2)  # kernels are loaded and memory is found on the first pass
    synchronize(a.device)
    reset_peaks(a)
    best, tokens = None, None
    start = time.perf_counter()
    for _ in range(repeat):
        begin = time.perf_counter()
        tokens = generate(model, ids, n)
        synchronize(a.device)
        seconds = time.perf_counter() - begin
        best = seconds if best is None else min(best, seconds)
        if time.perf_counter() - start > 5:
            break
    check(model)
    return best, tokens, *peaks(a, model)


def profile(model, ids, path):
    from torch.profiler import ProfilerActivity, profile as start

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if ids.is_cuda else [])
    with start(activities=activities) as p:
        generate(model, ids, 3)
    by = "self_device_time_total" if ids.is_cuda else "self_cpu_time_total"
    say(f"-- profile of {path}, 3 tokens")
    say(p.key_averages().table(sort_by=by, row_limit=14, max_name_column_width=60))


def to_plain(model):
    """Decoded weights into nn.Linear and nn.Embedding: what every path has to compute."""
    for name, m in list(model.named_modules()):
        if not isinstance(m, (CompressedLinear, CompressedEmbedding)):
            continue
        device, dtype = m._probe.device, model.dtype
        w = nn.Parameter(m.dequantize(dtype).to(device), requires_grad=False)
        if isinstance(m, CompressedLinear):
            new = nn.Linear(m.in_features, m.out_features, bias=m.bias is not None, device="meta")
            new.bias = m.bias
        else:
            new = nn.Embedding(m.num_embeddings, m.embedding_dim, padding_idx=m.padding_idx, device="meta")
        new.weight = w
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)


def same_text(tokens, reference):
    if tokens == reference:
        return "yes"
    return f"from token {next(i for i, (x, y) in enumerate(zip(tokens, reference)) if x != y)} on not"


class Table:
    """Rows of one number of tokens; a line is printed as soon as it is measured, the whole at the end."""

    def __init__(self, tokens):
        self.tokens, self.rows = tokens, []

    def add(self, codec, path, seconds, ids, torch_peak, our_peak):
        row = dict(codec=codec, path=path, tokens=self.tokens, seconds=seconds, tokens_per_s=self.tokens / seconds, torch_bytes=torch_peak,
                   our_bytes=our_peak, speed=self.rows[0]["seconds"] / seconds if self.rows else 1.0, ids=ids, same="")
        self.rows.append(row)
        say(f"   {codec:5} {path:12} {self.tokens:4} tokens  {seconds:8.3f} s  {row['tokens_per_s']:8.1f} tokens/s  {row['speed']:6.2f}x"
            f"  {torch_peak / 1e9:.3f} + {our_peak / 1e9:.3f} GB")

    def reference(self, codec, ids):
        for row in self.rows:
            if row["codec"] == codec:
                row["same"] = same_text(row["ids"], ids)
                say(f"   {codec:5} {row['path']:12} {self.tokens:4} tokens  text of the decoded weights: {row['same']}")

    def show(self):
        say(f"\n{self.tokens} tokens")
        say("| codec | path | time, s | tokens/s | torch's peak, GB | ours, GB | together, GB | against the baseline | text of the decoded weights |")
        say("|---|---|---|---|---|---|---|---|---|")
        for r in self.rows:
            torch_gb, our_gb = r["torch_bytes"] / 1e9, r["our_bytes"] / 1e9
            say(f"| {r['codec']} | {r['path']} | {r['seconds']:.3f} | {r['tokens_per_s']:.1f} | {torch_gb:.3f} | {our_gb:.3f} | {torch_gb + our_gb:.3f}"
                f" | {r['speed']:.2f}x | {r['same']} |")


def run_codec(a, codec, model, ids, tables):
    begin = time.perf_counter()
    paths = [p for p in a.paths if codec == "tile" or p in ZSTD_PATHS]
    if codec == "tile":
        report = compress_model(model, mode="rd", bpw=a.bpw, embeddings=a.embeddings, path=paths[0])
    else:
        report = compress_model(model, mode="int8", codec="zstd", path=paths[0])
    say(f"== codec {codec}: {str(report).splitlines()[-1]}; {time.perf_counter() - begin:.1f} s")
    for item in report.kept:
        say(f"   kept: {item.name}: {item.reason}")
    for path in paths:
        set_path(model, path)
        for table in tables:
            table.add(codec, path, *measure(a, model, ids, table.tokens, a.repeat))
        if path in a.profile:
            profile(model, ids, path)
    to_plain(model)
    gc.collect()
    for table in tables:
        table.reference(codec, generate(model, ids, table.tokens))


def main():
    a = parse_arguments()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("always", codecllm.FallbackWarning)
    where = torch.cuda.get_device_name(a.device) if a.device.startswith("cuda") else codecllm.device_info("cpu")["name"]
    say(f"torch {torch.__version__}, transformers {transformers.__version__}, codecllm {codecllm.__version__}, {where}, {a.dtype}")
    tables = [Table(n) for n in a.tokens]
    model, ids = load(a)
    linears = sum(isinstance(m, nn.Linear) for m in model.modules())
    say(f"== {a.model or a.synthetic}: {linears} linears, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M weights; uncompressed")
    for table in tables:
        table.add("-", "baseline", *measure(a, model, ids, table.tokens, a.repeat))
    for codec in a.codecs:
        if model is None:
            model, ids = load(a)
        run_codec(a, codec, model, ids, tables)
        model = None
        gc.collect()
    for table in tables:
        table.show()
    if a.json:
        with open(a.json, "w") as f:
            json.dump([{k: v for k, v in row.items() if k != "ids"} for table in tables for row in table.rows], f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
