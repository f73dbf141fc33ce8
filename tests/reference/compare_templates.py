#!/usr/bin/env python3
"""Renders chat templates with jinja2, as transformers does, and with the library, and counts what is equal.

    compare_templates.py --render build/render_template FOLDER...

FOLDER holds templates: *.jinja, tokenizer_config.json or chat_template.json, at any depth. Each is rendered for seven conversations (five
kinds: system, three turns, tools, a thinking switch, two questions in a row), each with and without the generation prompt. A rendering is
`equal`; refused by both (the template raises, or does not suit the conversation); refused by the library alone; accepted by the library
alone; or `different`. Exit 1 if anything differs or only one side refuses. Needs: pip install transformers jinja2. No network.
"""

import argparse
import calendar
import collections
import datetime
import json
import pathlib
import subprocess
import sys

from transformers.utils import chat_template_utils

NOW = datetime.datetime(2026, 11, 30, 13, 5, 9)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

SYSTEM = {"role": "system", "content": "Be terse."}
QUESTION = {"role": "user", "content": "What is 2+2?\n"}
ANSWER = {"role": "assistant", "content": " It is 4: \"four\" <& so on>."}
REASONED = {"role": "assistant", "content": "Four.", "reasoning_content": "Two and two.\n"}
THOUGHT = {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nFour."}
SECOND = {"role": "user", "content": "And 3+3, \u00e9t\u00e9 \U0001f600?"}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Today's <weather> & \"more\"\u2026", "parameters": {
        "type": "object", "properties": {
            "city": {"type": "string", "description": "A city's name"}, "unit": {"type": "string", "enum": ["celsius", "kelvin"], "default": "celsius"},
            "days": {"type": ["integer", "null"]}, "around": {"type": "array", "items": {"type": "number"}},
            "place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}},
        "required": ["city"]}, "return": {"type": "string", "description": "Text"}}},
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "abcdef123", "function": {
    "name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 3, "around": [1.5, 2e-7, 10.0], "exact": True, "none": None, "place": {"lat": 47.0}}}}]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": "{\"t\": 4}"}

CONVERSATIONS = [
    ("system", dict(messages=[SYSTEM, QUESTION])),
    ("three turns", dict(messages=[QUESTION, ANSWER, SECOND])),
    ("tools", dict(messages=[SYSTEM, QUESTION, CALL, RESULT], tools=TOOLS)),
    ("tools, answered", dict(messages=[QUESTION, CALL, RESULT, ANSWER, SECOND], tools=TOOLS)),
    ("thinking on", dict(messages=[QUESTION, REASONED, SECOND], kwargs={"enable_thinking": True, "thinking": True})),
    ("thinking off", dict(messages=[SYSTEM, QUESTION, THOUGHT, SECOND], kwargs={"enable_thinking": False, "thinking": False})),
    ("two questions", dict(messages=[QUESTION, SECOND])),
]


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def by_transformers(template, case, generate):
    """The rendering, or None and why not. Nothing that a template does is an error of this script."""
    try:
        text, _ = chat_template_utils.render_jinja_template(
            [case["messages"]], tools=case.get("tools"), chat_template=template, add_generation_prompt=generate, **case.get("kwargs", {}), **SPECIAL)
        return text[0], None
    except Exception as e:
        return None, f"{type(e).__name__}: {e}"


def by_library(render, template):
    """The renderings of a template, in order: pairs as by_transformers gives."""
    jobs = [dict(template=template, messages=chat_template_utils._alias_reasoning_fields(case["messages"]), tools=case.get("tools"), documents=None,
                 add_generation_prompt=generate, kwargs=case.get("kwargs", {}), now=calendar.timegm(NOW.timetuple()), **SPECIAL)
            for _, case in CONVERSATIONS for generate in (True, False)]
    done = subprocess.run([render], input=json.dumps(jobs).encode(), capture_output=True, timeout=300)
    lines = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if len(lines) != len(jobs):
        raise SystemExit(f"{render} ended with {done.returncode} after {len(lines)} of {len(jobs)}: {done.stderr.decode('utf-8', 'replace')}")
    return [(line.get("text"), line.get("error")) for line in map(json.loads, lines)]


def templates_of(folder):
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.suffix == ".jinja":
            yield str(path), path.read_bytes().decode("utf-8")
        elif path.name in ("tokenizer_config.json", "chat_template.json"):
            found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
            for name, text in [("", found)] if isinstance(found, str) else [(t["name"], t["template"]) for t in found or []]:
                yield f"{path}:{name}", text


def first_difference(ours, theirs):
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    return f"at {at}: ours {ours[max(0, at - 40):at + 60]!r}, theirs {theirs[max(0, at - 40):at + 60]!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", required=True, help="the program that tests/render_template.c becomes")
    parser.add_argument("--verbose", action="store_true", help="also what both refuse")
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    args = parser.parse_args()
    chat_template_utils.datetime = Clock
    counts, by_template, seen = collections.Counter(), collections.Counter(), set()
    for path, template in (pair for folder in args.folders for pair in templates_of(folder)):
        if template in seen:
            continue
        seen.add(template)
        worst = "equal"
        library = iter(by_library(args.render, template))
        for name, case in CONVERSATIONS:
            for generate in (True, False):
                theirs, why_theirs = by_transformers(template, case, generate)
                ours, why_ours = next(library)
                if ours is None and theirs is None:
                    what, detail = "refused by both", f"{why_ours} | {why_theirs}"
                elif ours is None:
                    what, detail = "refused by the library alone", why_ours
                elif theirs is None:
                    what, detail = "accepted by the library alone", why_theirs
                elif ours != theirs:
                    what, detail = "different", first_difference(ours, theirs)
                else:
                    what, detail = "equal", ""
                counts[what] += 1
                if what not in ("equal", "refused by both"):
                    worst = what
                if what not in ("equal", "refused by both") or (args.verbose and detail):
                    print(f"{path}: {name}{', prompt' if generate else ''}: {what}: {detail}")
        by_template[worst if worst != "equal" else "as transformers in all"] += 1
    print(f"{len(seen)} templates:", ", ".join(f"{n} {what}" for what, n in by_template.most_common()))
    print(f"{sum(counts.values())} renderings:", ", ".join(f"{n} {what}" for what, n in counts.most_common()))
    return 1 if set(counts) - {"equal", "refused by both"} else 0


if __name__ == "__main__":
    sys.exit(main())
