#!/usr/bin/env python3
"""Makes the tiny random models of tests/data/models and what transformers computes with them.

    pip install torch transformers safetensors numpy
    python3 tests/reference/make_model_reference.py [OUT]

Each model is a Hugging Face directory (config.json, model.safetensors in BF16) with expected.json: token ids, and for some positions the
next-token logits in float32. Weights are drawn with a fixed seed and are larger than an untrained network's, so that attention,
biases and rope matter; the tests would not notice an error in them otherwise. config_old.json says the same as config.json in the
dialect of transformers 4.
"""
import json
import math
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

VOCAB, HIDDEN, LAYERS, FFN = 80, 40, 2, 56  # whole vectors, tiles and row blocks nowhere, on purpose
TOKENS = 40
ROWS = [0, 5, 10, 20, 30, 38, 39]

BASE = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "intermediate_size": FFN,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
}

# name -> (class, config in today's dialect)
CASES = {
    "llama-bias": ("Llama", dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                                 rope_parameters={"rope_type": "default", "rope_theta": 5000.0})),
    "llama-linear": ("Llama", dict(tie_word_embeddings=True, head_dim=32, eos_token_id=[2, 5],
                                   rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})),
    "llama-llama3": ("Llama", dict(tie_word_embeddings=True, num_key_value_heads=4,
                                   rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0,
                                                    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                    "original_max_position_embeddings": 32})),
    "llama-yarn": ("Llama", dict(tie_word_embeddings=True, num_key_value_heads=1,
                                 rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                                                  "original_max_position_embeddings": 64})),
    "llama-yarn-mscale": ("Llama", dict(tie_word_embeddings=True,
                                        rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
                                                         "original_max_position_embeddings": 32, "beta_fast": 16.0,
                                                         "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 0.5,
                                                         "truncate": False})),
    "mistral-window": ("Mistral", dict(tie_word_embeddings=False, sliding_window=7, head_dim=24,
                                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True, use_sliding_window=False,
                            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    "qwen2-window": ("Qwen2", dict(tie_word_embeddings=False, use_sliding_window=True, sliding_window=9, max_window_layers=1,
                                   rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    "qwen3": ("Qwen3", dict(tie_word_embeddings=False, head_dim=48,
                            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    "qwen3-tied": ("Qwen3", dict(tie_word_embeddings=True, head_dim=16, attention_bias=True,
                                 rope_parameters={"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 2.0,
                                                  "original_max_position_embeddings": 128})),
}


def old_dialect(config):
    """The same configuration as transformers 4 wrote it."""
    old = dict(config)
    rope = dict(old.pop("rope_parameters"))
    old["rope_theta"] = rope.pop("rope_theta")
    old["torch_dtype"] = old.pop("dtype")
    kind = rope.pop("rope_type")
    # older files call the key "type"
    old["rope_scaling"] = None if kind == "default" else {"type" if kind == "linear" else "rope_type": kind, **rope}
    return old


def make(name, family, extra, out):
    torch.manual_seed(sum(map(ord, name)))
    settings = {**BASE, **extra}
    config_class = getattr(transformers, f"{family}Config")
    model_class = getattr(transformers, f"{family}ForCausalLM")
    config = config_class(**settings, attn_implementation="eager")
    model = model_class(config).float().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "norm" in key:
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif p.ndim == 1:
                p.copy_(0.5 * torch.randn_like(p))
            elif "embed" in key:
                p.copy_(torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (1.5 / math.sqrt(p.shape[1])))
            p.copy_(p.bfloat16().float())
    ids = torch.randint(3, VOCAB, (1, TOKENS))
    with torch.no_grad():
        logits = model(ids).logits[0]

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.bfloat16().contiguous() for k, v in model.state_dict().items()
             if not (settings["tie_word_embeddings"] and k == "lm_head.weight")}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    written = {"architectures": [f"{family}ForCausalLM"], "model_type": family.lower(), "dtype": "bfloat16", **settings}
    (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n")
    (folder / "config_old.json").write_text(json.dumps(old_dialect(written), indent=1) + "\n")
    (folder / "expected.json").write_text(json.dumps(
        {"ids": ids[0].tolist(), "positions": ROWS, "logits": [[round(v, 5) for v in logits[i].tolist()] for i in ROWS]}) + "\n")
    print(name, "logits", float(logits.abs().max()))


def main():
    here = pathlib.Path(__file__).resolve().parent.parent / "data" / "models"
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here
    for name, (family, extra) in CASES.items():
        make(name, family, extra, out)


if __name__ == "__main__":
    main()
