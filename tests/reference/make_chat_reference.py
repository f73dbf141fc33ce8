#!/usr/bin/env python3
"""Writes tests/data/tokenizer/chat.json: conversations as transformers renders them with templates of the known families.

    python3 tests/reference/make_chat_reference.py

The templates are written down here from the published formats of those families; "other" is none of
them.
Needs `transformers` and `tokenizers`.
"""
import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

OUT = Path(__file__).resolve().parents[1] / "data" / "tokenizer" / "chat.json"

SPLIT_SYSTEM = ("{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
                "{% else %}{% set system = none %}{% set rest = messages %}{% endif %}")
ALTERNATE = ("{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}")


def mistral(open_, close, answer, place, trim=False):
    system = "{% if " + place + " and system is not none %}{{ system + '\\n\\n' }}{% endif %}"
    content = "m['content'] | trim" if trim else "m['content']"
    return ("{{ bos_token }}" + SPLIT_SYSTEM + "{% for m in rest %}" + ALTERNATE + "{% if m['role'] == 'user' %}{{ '" + open_ + "' }}" + system +
            "{{ m['content'] }}{{ '" + close + "' }}{% else %}{{ '" + answer + "' }}{{ " + content + " }}{{ eos_token }}{% endif %}{% endfor %}")


CHATML_LOOP = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
CHATML_END = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
QWEN2_SYSTEM = ("{% if messages[0]['role'] != 'system' %}"
                "{{ '<|im_start|>system\\nYou are a careful assistant.<|im_end|>\\n' }}{% endif %}")
VARIABLE_SYSTEM = ("{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}"
                   "{% set system_message = 'You are a helpful assistant.' %}{% set rest = messages %}{% endif %}"
                   "{{ '<|im_start|>system\\n' + system_message + '<|im_end|>\\n' }}{% for m in rest %}"
                   "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}")
LLAMA3_LOOP = "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
LLAMA3_END = "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
LLAMA31 = ("{{ bos_token }}" + SPLIT_SYSTEM + "{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' }}"
           "{{ 'Cutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n' }}"
           "{% if system is not none %}{{ system | trim }}{% endif %}{{ '<|eot_id|>' }}{% for m in rest %}" + LLAMA3_LOOP + "{% endfor %}" + LLAMA3_END)
LLAMA2 = (SPLIT_SYSTEM + "{% for m in rest %}" + ALTERNATE +
          "{% if loop.index0 == 0 and system is not none %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
          "{% else %}{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
          "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")
GEMMA = ("{{ bos_token }}" + SPLIT_SYSTEM + "{% for m in rest %}" + ALTERNATE +
         "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
         "{% if loop.first and system is not none %}{{ system + '\\n\\n' }}{% endif %}{{ m['content'] | trim }}{{ '<end_of_turn>\\n' }}"
         "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}")
ZEPHYR = ("{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
          "{% elif message['role'] == 'system' %}\n{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
          "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\\n' + message['content'] + eos_token }}\n{% endif %}\n"
          "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}")
PHI3 = ("{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '<|end|>\\n' }}"
        "{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}")
QWEN3 = ("{% set ns = namespace(last=messages | length - 1) %}"
         "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
         "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% set content = m.content %}{% set thought = '' %}"
         "{% if '</think>' in m.content %}{% set content = m.content.split('</think>')[-1].lstrip('\\n') %}"
         "{% set thought = m.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{% endif %}"
         "{% if loop.index0 > ns.last and (loop.last or thought) %}"
         "{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}{% else %}{{ content }}{% endif %}"
         "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}" + CHATML_END)

S = {"bos_token": "<s>", "eos_token": "</s>"}
L3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
CASES = [  # family, tokens, template
    ("chatml", {"eos_token": "<|im_end|>"}, CHATML_LOOP + CHATML_END),
    ("chatml", {"eos_token": "<|im_end|>"}, QWEN2_SYSTEM + CHATML_LOOP + CHATML_END),
    ("chatml", {"eos_token": "<|im_end|>"}, VARIABLE_SYSTEM + CHATML_END),
    ("chatml", S, "{{ bos_token }}" + CHATML_LOOP + CHATML_END),
    ("qwen3", {"eos_token": "<|im_end|>"}, QWEN3),
    ("llama3", L3, "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}" + LLAMA3_LOOP + "{% endfor %}" + LLAMA3_END),
    ("llama3.1", L3, LLAMA31),
    ("llama2", S, LLAMA2),
    ("mistral", S, mistral("[INST] ", " [/INST]", "", "loop.first")),
    ("mistral-v1", S, mistral(" [INST] ", " [/INST]", " ", "loop.first")),
    ("mistral-v3", S, mistral("[INST] ", "[/INST]", " ", "loop.last", trim=True)),
    ("mistral-tekken", S, mistral("[INST]", "[/INST]", "", "loop.last")),
    ("gemma", {"bos_token": "<bos>", "eos_token": "<eos>"}, GEMMA),
    ("zephyr", S, ZEPHYR),
    ("phi3", {"bos_token": "<s>", "eos_token": "<|endoftext|>"}, PHI3),
    ("phi3", {"bos_token": "<s>", "eos_token": "<|endoftext|>"}, "{{ bos_token }}" + PHI3),
    ("other", S, "{{ bos_token }}{% for m in messages %}{{ '### ' + m['role'] + ':\\n' + m['content'] + '\\n' }}{% endfor %}"),
    ("other", S, "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}{{ '<|assistant|>' }}"),
    ("other", S, "{% for m in messages %}{{ '<|user|>\\n' + m['content'] + '\\n' }}{% endfor %}{{ '<|assistant|>\\n' }}"),
    ("other", S, "{{ '[SYSTEM_PROMPT]' }}{% for m in messages %}{{ '[INST]' + m['content'] + '[/INST]' }}{% endfor %}"),
]


def m(*pairs):
    return [{"role": {"s": "system", "u": "user", "a": "assistant"}[r], "content": c} for r, c in pairs]


CONVERSATIONS = [
    m(("u", "Hello")),
    m(("s", "Be brief."), ("u", "Hello")),
    m(("u", " Hello \n"), ("a", " Hi! \n"), ("u", "\u3000And?\t")),
    m(("s", " S \n"), ("u", "  one  "), ("a", "two"), ("u", "three"), ("a", "four")),
    m(("s", "only rules"), ("u", " ")),
    m(("u", ""), ("a", ""), ("u", "x")),
    m(("u", "why"), ("a", "<think>\n\nhm\n</think>\n\nbecause"), ("u", "really"), ("a", "<think>\nyes\n</think>\n\nso it is")),
    m(("u", "Grüße 👋 <s>[INST] 'quoted' \"text\" {{ x }}"), ("a", "</think> ok")),
    m(("a", "first")),
    m(("u", "a"), ("u", "b")),
    m(("s", "x")),
]


def main():
    result = []
    for family, tokens, template in CASES:
        t = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=template, **tokens)
        cases = []
        for messages in CONVERSATIONS:
            for generate in (True, False):
                try:
                    text = t.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
                except Exception:  # a template refuses by raising
                    text = None
                cases.append({"messages": messages, "generate": generate, "text": text})
        result.append({"family": family, "config": dict(tokens, chat_template=template), "cases": cases})
    OUT.write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(len(result), "templates,", sum(len(r["cases"]) for r in result), "conversations,", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
