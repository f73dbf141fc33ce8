#!/usr/bin/env python3
"""Compares a model directory as the library runs it with transformers in float32: texts, ids, a conversation.

    check_model.py --codecllm build/codecllm --library build/libcodecllm.so --render build/render_template DIR [--compressed DIR]

DIR is the model as it was downloaded; --compressed is what `codecllm compress --mode lossless` made of it (default: DIR itself is run).
Checked are, for ten prompts, the ids and the greedy continuation; and for a conversation of three turns what the chat template renders and
the ids of that. Where a continuation differs, the margin of transformers' two likeliest tokens there is printed: a near tie may go either
way. Where the cores are busy, OMP_NUM_THREADS=1 is much faster. Exit 1 if anything differs. Needs: pip install transformers torch. No network, if DIR is complete.
"""

import argparse
import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compare_tokenizers import Library

PROMPTS = [
    "The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n    ", "Water boils at", "In 1969, Neil Armstrong", "List of colors:\n1. red\n2.",
    "Q: What is 7 * 6?\nA:", "Die Hauptstadt von Deutschland ist", "\u00c9t\u00e9 \U0001f600 caf\u00e9:", "The quick brown fox jumps over the lazy dog. The",
]
SYSTEM = "Answer in one short sentence."
QUESTIONS = ["What is the capital of Italy?", "And of Spain?", "Which of the two is larger?"]


def continuation(codecllm, directory, prompt, count):
    done = subprocess.run([codecllm, "run", directory, "-p", prompt, "-n", str(count), "--temp", "0", "-no-cnv", "-dev", "cpu", "--no-display-prompt"],
                          capture_output=True, check=True)
    return done.stdout.decode()


def check_prompt(args, tokenizer, model, library, handle, prompt):
    ids = tokenizer(prompt)["input_ids"]
    ours = library.encode(handle, prompt.encode(), True)
    if ours != ids:
        print(f"ids of {prompt!r}: ours {ours}, transformers' {ids}")
        return False
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=args.tokens, do_sample=False, output_logits=True, return_dict_in_generate=True,
                             pad_token_id=0)
    tokens = out.sequences[0][len(ids):].tolist()
    theirs, ours = tokenizer.decode(tokens, skip_special_tokens=True), continuation(args.codecllm, args.run, prompt, args.tokens)
    if ours.rstrip("\n") == theirs.rstrip("\n"):
        smallest = min(float(top[0] - top[1]) for top in (step[0].topk(2).values for step in out.logits))
        print(f"equal: {prompt!r}: {len(tokens)} tokens, smallest margin {smallest:.4g}")
        return True
    for i, step in enumerate(out.logits):
        if not ours.startswith(tokenizer.decode(tokens[:i + 1], skip_special_tokens=True)):
            top = step[0].topk(2).values
            print(f"different: {prompt!r} from token {i}, margin {float(top[0] - top[1]):.4g}\n  ours   {ours!r}\n  theirs {theirs!r}")
            break
    return False


def check_conversation(args, tokenizer, model, library, handle):
    template, right = tokenizer.chat_template, True
    if not template:
        print("no chat template")
        return True
    messages = [{"role": "system", "content": SYSTEM}]
    for turn, question in enumerate(QUESTIONS, 1):
        messages.append({"role": "user", "content": question})
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        request = dict(template=template, messages=messages, add_generation_prompt=True, bos_token=tokenizer.bos_token or "", eos_token=tokenizer.eos_token or "")
        text = subprocess.run([args.render], input=json.dumps(request).encode(), capture_output=True, check=True).stdout
        ours = library.encode(handle, text, False)
        right &= ours == theirs
        print(f"turn {turn}: {len(theirs)} ids {'equal' if ours == theirs else f'DIFFERENT: ours {ours}, theirs {theirs}'}")
        with torch.no_grad():
            answer = model.generate(torch.tensor([theirs]), max_new_tokens=args.tokens, do_sample=False, pad_token_id=0)[0][len(theirs):]
        messages.append({"role": "assistant", "content": tokenizer.decode(answer, skip_special_tokens=True)})
    answers = [m["content"].strip() for m in messages if m["role"] == "assistant"]
    done = subprocess.run([args.codecllm, "run", args.run, "-cnv", "-sys", SYSTEM, "--temp", "0", "-n", str(args.tokens), "-dev", "cpu"],
                          input="\n".join(QUESTIONS + [""]).encode(), capture_output=True)
    said, at = done.stdout.decode(), 0
    for turn, answer in enumerate(answers, 1):
        found = said.find(answer, at)
        print(f"answer {turn} {answer!r}: {'in the CLI conversation' if found >= 0 else 'NOT in the CLI conversation'}")
        right, at = right and found >= 0, max(at, found + len(answer))
    if done.returncode or not right:
        print(f"run -cnv ended with {done.returncode}:\n{said}\n{done.stderr.decode()}")
    return right and not done.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecllm", required=True)
    parser.add_argument("--library", required=True, help="libcodecllm.so")
    parser.add_argument("--render", required=True, help="the program that tests/render_template.c becomes")
    parser.add_argument("--compressed", help="what codecllm compress --mode lossless made of it")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each text and answer (48)")
    parser.add_argument("directory", metavar="DIR")
    args = parser.parse_args()
    args.run = args.compressed or args.directory
    tokenizer = AutoTokenizer.from_pretrained(args.directory)
    model = AutoModelForCausalLM.from_pretrained(args.directory, dtype=torch.float32).eval()
    library = Library(args.library)
    handle = library.open(args.run)
    equal = sum(check_prompt(args, tokenizer, model, library, handle, prompt) for prompt in PROMPTS)
    print(f"{equal} of {len(PROMPTS)} texts equal")
    return 0 if check_conversation(args, tokenizer, model, library, handle) and equal == len(PROMPTS) else 1


if __name__ == "__main__":
    sys.exit(main())
