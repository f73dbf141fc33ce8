#!/usr/bin/env python3
"""Generation of transformers in FP16, as a baseline for `codecllm bench model`: drawn weights of a known shape, batch 1, a prompt of 8 tokens.

    bench/transformers_gpu.py [--shape tinyllama-1.1b|llama-3-8b]... [--tokens 128] [--compiled]

Prints a line for each shape and way: eager, and with --compiled also a static cache with a compiled forward pass (which takes minutes to compile).
"""
import argparse
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "tinyllama-1.1b": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4, vocab_size=32000),
    "llama-3-8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, vocab_size=128256),
}


def tokens_per_second(model, tokens, **options):
    """Of new tokens, the best of three rounds after one to warm up."""
    ids = torch.arange(1, 9, device="cuda")[None]
    best = 0.0
    for round_number in range(4):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, **options)
        torch.cuda.synchronize()
        if round_number:
            best = max(best, tokens / (time.perf_counter() - begin))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: all")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for shape in arguments.shape or SHAPES:
        torch.set_default_dtype(torch.float16)
        with torch.device("cuda"):
            model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=2048, **SHAPES[shape])).eval()
        with torch.inference_mode():
            print(f"{shape}: eager {tokens_per_second(model, arguments.tokens):.1f} tokens/s", flush=True)
            if arguments.compiled:
                print(f"{shape}: static cache, compiled {tokens_per_second(model, arguments.tokens, cache_implementation='static'):.1f} tokens/s", flush=True)
        del model
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
