"""The parts of bench/python_gpu.sh, which says what they are. One line for each check; the exit code is 1 if one failed."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

import numpy as np
import torch

import codecllm
from codecllm import blob, zstd
from codecllm.torch import PATHS, ZSTD_PATHS, CodedWeight, CompressedLinear, check, compress_model, memory, set_path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PARTS = ("decode", "multiply", "zstd", "zero-copy", "paths", "transformers", "table", "profile")
TYPES = ("float32", "float16", "bfloat16")  # that models compute with
counts = {"passed": 0, "failed": 0, "skipped": 0}


def passed(what, ok=True, detail=""):
    counts["passed" if ok else "failed"] += 1
    print(f"{'ok    ' if ok else 'FAILED'} {what}{': ' + detail if detail else ''}")
    return ok


def skipped(what, why):
    counts["skipped"] += 1
    print(f"skipped: {what}: {why}")


def raises(error, call):
    try:
        call()
    except error as e:
        return str(e)
    return ""


def weights(rows, cols, seed=0):
    return (np.random.default_rng(seed).standard_normal((rows, cols)) * 0.03).astype(np.float32)


def bf16(w):
    return (np.ascontiguousarray(w).view(np.uint32) >> 16).astype(np.uint16)


def blobs(rows, cols, seed=0):
    """A matrix in every mode: (name, tile blob)."""
    w = weights(rows, cols, seed)
    importance = np.exp(np.random.default_rng(seed).standard_normal(cols) * 0.5).astype(np.float32)
    yield "rd 2.5 bits", codecllm.encode(w, bpw=2.5, profile="fast")
    yield "rd 4.25 bits", codecllm.encode(w, bpw=4.25, profile="fast")
    yield "rd 4.25 bits, small", codecllm.encode(w, bpw=4.25, profile="small")
    yield "rd with column weights", codecllm.encode(w, bpw=4, col_weight=importance)
    yield "rd 9 bits", codecllm.encode(w, bpw=9)
    yield "int8", codecllm.encode(w, mode="int8")
    yield "integers", codecllm.encode_int8(np.clip(np.round(w * 1000), -128, 127).astype(np.int8), np.full(rows, 0.01, np.float32))
    yield "lossless bf16", codecllm.encode(bf16(w), mode="lossless", dtype="bfloat16")
    yield "lossless fp16", codecllm.encode(w.astype(np.float16), mode="lossless")


def types_of(t):
    if t.mode == "lossless":
        return ["float16"] if t.source_dtype == "float16" else ["bfloat16", "float16"]
    return (["int8"] if t.layout == 8 else []) + ["int16", "bfloat16", "float16"]


# ---- decode ----


def part_decode(a):
    gpu = codecllm.Gpu.get()
    for rows, cols in ((16, 128), (77, 1000), (1024, 2048)):
        wrong, n, coded = [], 0, []
        for name, data in blobs(rows, cols):
            t = codecllm.Tensor(data)
            g = gpu.upload(t)
            coded.append((t, g))
            for dtype in types_of(t):
                n += 1
                if not np.array_equal(g.decode(dtype).numpy(), t.decode(dtype)):
                    wrong.append(f"{name} as {dtype}")
        gpu.check()
        passed(f"decode {rows} x {cols}: {n} modes and types as the CPU decodes them", not wrong, ", ".join(wrong))
        both = [(t, g) for t, g in coded if "float16" in types_of(t)]
        out = gpu.decode([g for _, g in both], "float16")
        passed(f"a batch of {len(both)}", all(np.array_equal(o.numpy(), t.decode("float16")) for o, (t, _) in zip(out, both)))
        side = torch.cuda.Stream()
        same = True
        with torch.cuda.stream(side):
            out = [g.decode("float16") for _, g in both]
        views = [torch.from_dlpack(o) for o in out]  # on the current stream, which has to wait for the other
        for v, (t, _) in zip(views, both):
            same = same and np.array_equal((v + 0).cpu().numpy(), t.decode("float16"))
        passed("decoded on a side stream, used on the current one", same)
        t, g = coded[1]
        ids = torch.tensor([0, rows - 1, 3, 3, rows + 5, -7], dtype=torch.int32, device="cuda")
        rows_out = torch.empty(6, cols, device="cuda")
        codecllm._native.call("cllm_gpu_rows", gpu._handle, g._handle, ids.data_ptr(), 6, rows_out.data_ptr(), cols, gpu.current_stream())
        passed("rows by id", np.array_equal(rows_out.cpu().numpy(), t.decode("float32")[[0, rows - 1, 3, 3, rows - 1, 0]]))
    q = np.clip(np.round(weights(500, 700) * 1000), -128, 127).astype(np.int8)
    layers = [codecllm.Encoder().encode_layer(q[i:])[0] for i in range(5)]
    out = codecllm.Decoder(strict=True).decode_batch_to_gpu(layers)
    passed("decode_batch_to_gpu", all(np.array_equal(torch.from_dlpack(o).cpu().numpy(), q[i:]) for i, o in enumerate(out)))
    damaged = bytearray(layers[0])
    damaged[len(damaged) // 4 : len(damaged) // 2] = b"\xff" * (len(damaged) // 2 - len(damaged) // 4)
    decoder = codecllm.Decoder(strict=True, verify=False)
    message = raises(codecllm.FormatError, lambda: decoder.decode_layer_to_gpu(damaged))
    passed("corrupt tiles are told", bool(message), message)
    passed("and the GPU works on", np.array_equal(decoder.decode_layer_to_gpu(layers[0]).numpy(), q))


# ---- multiply ----


def part_multiply(a):
    generator = torch.Generator("cuda").manual_seed(5)
    for rows, cols in ((80, 1000), (2048, 5632)):
        for name, data in blobs(rows, cols):
            coded = CodedWeight(data)
            exact = torch.from_numpy(coded.tile.decode("float32").astype(np.float64) if coded.mode != "lossless" else
                                     coded.decode_host(torch.float16 if coded.natural == "float16" else torch.bfloat16).double().numpy()).cuda()
            worst = {}
            for dtype, tolerance in ((torch.float16, 2e-3), (torch.bfloat16, 1e-2), (torch.float32, 1e-3)):
                bias = torch.randn(rows, device="cuda", generator=generator).to(dtype)
                linear = CompressedLinear(coded, bias, device="cuda", strict=True)
                for n in (1, 2, 3, 5, 8):
                    x = torch.randn(n, cols, device="cuda", generator=generator).to(dtype)
                    with torch.no_grad():
                        y = linear(x).double()
                    want = x.double() @ exact.T + bias.double()
                    error = ((y - want).abs().max() / want.abs().max()).item()
                    worst[dtype] = max(worst.get(dtype, 0), error / tolerance)
                check(linear)
            passed(f"multiply {rows} x {cols}, {name}", max(worst.values()) < 1,
                   ", ".join(f"{str(d).removeprefix('torch.')} {v:.3f} of the tolerance" for d, v in worst.items()))
    linear = CompressedLinear(CodedWeight(codecllm.encode(weights(512, 1024), bpw=4.25)), device="cuda", strict=True)
    x = torch.randn(1, 1024, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            linear(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            y = linear(x)
        x.normal_()
        graph.replay()
        passed("captured in a CUDA graph", torch.equal(y, linear(x)))


# ---- zstd ----


def part_zstd(a):
    try:
        zstd.nvcomp()
    except codecllm.Unsupported as e:
        skipped("zstd", str(e))
        return
    for rows, cols in ((1, 1), (77, 1000), (2048, 5632)):
        q = np.clip(np.round(weights(rows, cols) * 1000), -128, 127).astype(np.int8)
        for chunk in (blob.DEFAULT_CHUNK, 64 << 10, 256 << 10):
            data, ratio = codecllm.Encoder("zstd", chunk_bytes=chunk).encode_layer(q)
            t = codecllm.Decoder(strict=True).decode_layer_to_gpu(data)
            passed(f"zstd {rows} x {cols}, chunks of {chunk >> 10} KiB, ratio {ratio:.3f}", np.array_equal(t.numpy(), q))
    blobs_ = [codecllm.Encoder("zstd").encode_layer(q[i:])[0] for i in range(4)] + [codecllm.Encoder().encode_layer(q)[0]]
    out = codecllm.Decoder(strict=True).decode_batch_to_gpu(blobs_)
    passed("a batch of both codecs", all(np.array_equal(o.numpy(), w) for o, w in zip(out, [q, q[1:], q[2:], q[3:], q])))


# ---- zero copy ----


def part_zero_copy(a):
    from torch.profiler import ProfilerActivity, profile

    gpu = codecllm.Gpu.get()
    q = np.clip(np.round(weights(2048, 2048) * 1000), -128, 127).astype(np.int8)
    data, _ = codecllm.Encoder().encode_layer(q)
    decoder = codecllm.Decoder(strict=True)
    matrix = gpu.upload(codecllm.Tensor(blob.parse(data).payload))
    torch.cuda.synchronize()
    matrix.decode()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as p:
        t = matrix.decode()
        view = torch.from_dlpack(t)
        gpu.check()
    after = torch.cuda.max_memory_allocated(), torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    passed("torch's view has the same data_ptr", view.data_ptr() == t.data_ptr, f"{view.data_ptr():#x}")
    passed("torch allocated nothing", before == after, f"{before} before, {after} after: (bytes, allocations)")
    names = [e.key for e in p.key_averages()]
    copies = [n for n in names if "DtoD" in n or "copy_" in n]
    kernels = [n for n in names if "decode" in n.lower() and "aten" not in n]
    passed("no copy inside of the device in the profile", not copies, ", ".join(copies) or f"seen: {', '.join(n for n in names if 'Memcpy' in n) or 'no copy at all'}")
    passed("and the decoding kernel is in it", bool(kernels), ", ".join(kernels)[:100])
    view.add_(1)
    passed("both see what one writes", np.array_equal(t.numpy(), q + np.int8(1)))
    try:
        import cupy

        c = cupy.from_dlpack(t)
        passed("CuPy's view has the same address", c.data.ptr == t.data_ptr)
        passed("through __cuda_array_interface__ too", cupy.asarray(t).data.ptr == t.data_ptr)
        del c
    except ImportError:
        skipped("CuPy", "not installed")
    del t, view
    for name, call in (("from the host", lambda: decoder.decode_layer_to_gpu(data)), ("resident", lambda: torch.from_dlpack(matrix.decode()))):
        for _ in range(20):
            call()
        torch.cuda.synchronize()
        free = torch.cuda.mem_get_info()[0]
        begin = time.perf_counter()
        for _ in range(1000):
            call()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        grown = free - torch.cuda.mem_get_info()[0]
        passed(f"1000 decodes {name} of 2048 x 2048", grown <= 0 and gpu.memory()["buffers"] == 0, f"{seconds * 1e3:.0f} us each, device memory grew by {grown} bytes")


# ---- models ----


def greedy(model, ids, n):
    with torch.no_grad():
        return model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=n, max_new_tokens=n, do_sample=False, pad_token_id=0)[0].tolist()


def prompts_of(directory):
    with open(os.path.join(directory, "golden.json")) as f:
        return [(p["prompt"], p["ids"]) for p in json.load(f)["prompts"]]


# How near two logits must be, against the largest, to be called a tie: a few units in the last place of the type. Sums in another order then
# may prefer the other one.
NEAR = {torch.float32: 0.0, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def tie(model, got, want):
    """Where two texts part, how far apart the model's logits of the two tokens are, against the largest."""
    i = next(i for i, (x, y) in enumerate(zip(got, want)) if x != y)
    with torch.no_grad():
        logits = model(torch.tensor([want[:i]], device=model.device)).logits[0, -1].double()
    return ((logits[want[i]] - logits[got[i]]).abs() / logits.abs().max()).item()


def plain_model(model):
    sys.path.insert(0, os.path.join(ROOT, "examples"))
    from torch_inference import to_plain

    to_plain(model)
    return model


def part_paths(a):
    from transformers import AutoModelForCausalLM

    for directory in a.model:
        for codec, arguments, which in (("tile", dict(mode="rd", bpw=4.25, embeddings=True), PATHS), ("zstd", dict(mode="int8", codec="zstd", path="gpu"), ZSTD_PATHS)):
            if codec == "zstd":
                try:
                    zstd.nvcomp()
                except codecllm.Unsupported as e:
                    skipped(f"{directory}, codec zstd", str(e))
                    continue
            for dtype in (getattr(torch, name) for name in a.dtype or TYPES):
                model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).to("cuda")
                compress_model(model, strict=True, **arguments)
                prompts = [(p, torch.tensor([ids], device="cuda")) for p, ids in prompts_of(directory)]
                got = {}
                for path in which:
                    set_path(model, path)
                    with torch.no_grad():
                        step = model(prompts[0][1][:, :1]).logits.double()
                    got[path] = [greedy(model, ids, a.tokens) for _, ids in prompts], step, torch.cat([model(ids).logits[0, -1:].double().detach() for _, ids in prompts])
                check(model)
                plain = plain_model(model)
                texts = [greedy(plain, ids, a.tokens) for _, ids in prompts]
                with torch.no_grad():
                    step = plain(prompts[0][1][:, :1]).logits.double()
                    last = torch.cat([plain(ids).logits[0, -1:].double() for _, ids in prompts])
                for path in which:
                    same = sum(x == y for x, y in zip(got[path][0], texts))
                    apart = (got[path][1] - step).abs().max().item(), (got[path][2] - last).abs().max().item()
                    gap = max((tie(plain, x, y) for x, y in zip(got[path][0], texts) if x != y), default=0.0)
                    enough = same == len(texts) or (path == "fused" and gap <= NEAR[dtype])
                    passed(f"{directory}, {codec}, {str(dtype).removeprefix('torch.')}, {path}", enough,
                           f"{same} of {len(texts)} texts the same{f' (others part at a tie of {gap:.1e})' if gap else ''}; logits of one token apart by"
                           f" {apart[0]:.2e}, of prompts by {apart[1]:.2e} (largest {last.abs().max().item():.2f})")


def part_transformers(a):
    import codecllm.transformers  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not a.codecllm:
        skipped("transformers", "no codecllm command; --codecllm names one")
        return
    # The command needs the libraries that the wheel carries.
    environment = {**os.environ, "LD_LIBRARY_PATH": codecllm._native.library_folder() + ":" + os.environ.get("LD_LIBRARY_PATH", "")}
    for directory in a.model:
        work = tempfile.mkdtemp()
        try:
            out = os.path.join(work, "out")
            subprocess.run([a.codecllm, "compress", directory, "-o", out, "--bpw", "4.5"], check=True, env=environment, stdout=subprocess.DEVNULL)
            model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, device_map="cuda")
            tokenizer = AutoTokenizer.from_pretrained(out)
            prompts = prompts_of(directory)

            def texts(m):
                found = []
                for prompt, _ in prompts:
                    ids = tokenizer(prompt, return_tensors="pt").input_ids.to("cuda")
                    found.append(tokenizer.decode(greedy(m, ids, 48), skip_special_tokens=True))
                return found

            got = texts(model)
            passed(f"{directory}: loaded to the GPU", not any(p.is_meta for p in model.parameters()) and memory(model)["tensors"] > 0, f"{memory(model)['tensors']} bytes compressed")
            for device in ("cpu", "cuda"):
                # The package multiplies with activations as they are: int8 in prompts would part texts at near ties.
                run = [a.codecllm, "run", out, "-n", "48", "--temp", "0", "--device", device, "--prompt-type", "f16", "-p"]
                tried = [subprocess.run([*run, p], capture_output=True, text=True, env=environment) for p, _ in prompts]
                if any(t.returncode for t in tried):
                    skipped(f"{directory}: the command's text on {device}", next(t.stderr for t in tried if t.returncode).strip()[:200])
                    continue
                same = sum(t.stdout.strip() == g.strip() for t, g in zip(tried, got))
                passed(f"{directory}: the command's greedy text on {device}", same == len(prompts), f"{same} of {len(prompts)}")
            saved = os.path.join(work, "saved")
            model.save_pretrained(saved)
            tokenizer.save_pretrained(saved)
            again = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).to("cuda")
            passed(f"{directory}: save_pretrained, from_pretrained, .to('cuda')", texts(again) == got)
            check(again)
        finally:
            shutil.rmtree(work)


def example(*arguments):
    command = [sys.executable, "-B", os.path.join(ROOT, "examples", "torch_inference.py"), "--synthetic", "tinyllama", *arguments]
    print("$", " ".join(command[2:]), flush=True)
    return subprocess.run(command).returncode


def part_table(a):
    codecs = ["tile", "zstd"]
    try:
        zstd.nvcomp()
    except codecllm.Unsupported as e:
        skipped("table: codec zstd", str(e))
        codecs = ["tile"]
    with tempfile.TemporaryDirectory() as work:
        out = os.path.join(work, "table.json")
        if not passed("torch_inference.py ran", example("--tokens", "10", "128", "--codecs", *codecs, "--json", out) == 0):
            return
        with open(out) as f:
            rows = json.load(f)
    for n in (10, 128):
        by = {(r["codec"], r["path"]): r for r in rows if r["tokens"] == n}
        baseline, cpu, fused = by["-", "baseline"], by["tile", "cpu"], by["tile", "fused"]
        passed(f"{n} tokens: gpu at least 5 times as fast as cpu", by["tile", "gpu"]["tokens_per_s"] >= 5 * cpu["tokens_per_s"],
               f"{by['tile', 'gpu']['tokens_per_s'] / cpu['tokens_per_s']:.1f} times")
        order = [by["tile", p]["tokens_per_s"] for p in PATHS]
        for (p, x), (q, y) in zip(zip(PATHS, order), list(zip(PATHS, order))[1:]):
            print(f"note   {n} tokens: {q} against {p}: {y / x:.2f} times{'' if y > x else '; part `profile` shows what bounds it'}")
        passed(f"{n} tokens: fused at least as fast as the baseline", fused["tokens_per_s"] >= baseline["tokens_per_s"],
               f"{fused['tokens_per_s'] / baseline['tokens_per_s']:.3f} times")
        peak, base = fused["torch_bytes"] + fused["our_bytes"], baseline["torch_bytes"]
        passed(f"{n} tokens: fused peaks at 0.75 GB or less", peak <= 0.75e9, f"{peak / 1e9:.3f} GB against {base / 1e9:.3f} GB")


def part_profile(a):
    tile = [p for p in PATHS if p != "cpu"]
    passed("profiles", example("--tokens", "8", "--codecs", "tile", "--repeat", "1", "--paths", *tile, "--profile", *tile) == 0)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--codecllm")
    p.add_argument("--model", action="append")
    p.add_argument("--dtype", action="append", choices=TYPES)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("parts", nargs="*", metavar="PART")
    a = p.parse_args()
    unknown = [x for x in a.parts if x not in PARTS]
    if unknown:
        p.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    a.model = a.model or [os.path.join(ROOT, "models", "tiny")]
    if not a.codecllm:
        for build in ("build", "build-gpu"):
            program = os.path.join(ROOT, build, "codecllm")
            a.codecllm = a.codecllm or (program if os.path.exists(program) else None)
    if not torch.cuda.is_available():
        print("torch sees no GPU here; nothing done")
        return 2
    info = codecllm.device_info("cuda")
    print(f"{info['name']}, {info['detail']}; code for {info['built_for']}; torch {torch.__version__}, codecllm {codecllm.__version__}")
    for part in a.parts or PARTS:
        print(f"== {part}")
        begin = time.perf_counter()
        try:
            with contextlib.redirect_stderr(sys.stdout):
                globals()["part_" + part.replace("-", "_")](a)
        except Exception:
            passed(part, False, traceback.format_exc())
        torch.cuda.empty_cache()
        print(f"   {time.perf_counter() - begin:.1f} s")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
