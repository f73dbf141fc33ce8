#!/usr/bin/env python3
"""Writes tests/data/tokenizer: small tokenizer.json files and the ids that the `tokenizers` package gives for a Unicode-wide set of texts.

    python3 tests/reference/make_tokenizer_reference.py

Needs `tokenizers` (made with 0.23.3). The set is the same at every run; the trained vocabularies may depend on the package's version.
"""
import json
import random
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "data" / "tokenizer"
CORPUS = (ROOT / "models" / "tiny" / "heldout.txt").read_text(encoding="utf-8")
LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")
OTHER_SCRIPTS = ["Ünïcödé naïve café Straße", "Привет, мир! Как дела?", "γειά σου Κόσμε", "你好，世界。今天天气很好。", "こんにちは世界 カタカナ",
                 "안녕하세요 세계", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "👩‍👩‍👧‍👦 🇩🇪 👍🏽"] * 6
NFKD = normalizers.NFKD()


def add_tokens(t):
    """Every kind of added token there is."""
    t.add_special_tokens(["<|begin|>", "<|end|>", AddedToken("<mask>", lstrip=True, special=True)])
    t.add_tokens([AddedToken("Émile", normalized=True), AddedToken("<tool>", normalized=False), AddedToken("<tool>>", normalized=False),
                  AddedToken("word", single_word=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False),
                  AddedToken("  ", normalized=False)])


def byte_level():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([CORPUS] + OTHER_SCRIPTS, trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|begin|>", "<|end|>"], show_progress=False))
    add_tokens(t)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin|> $A <|end|>", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 0), ("<|end|>", 1)])])
    return t


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([CORPUS], trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                        special_tokens=["<|begin|>", "<|end|>"], show_progress=False))
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    return t


def metaspace():
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="first")])
    t.train_from_iterator([CORPUS] + OTHER_SCRIPTS[:-6], trainers.BpeTrainer(
        vocab_size=1100, limit_alphabet=160, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], show_progress=False))
    # the trainer makes them special; in models that come from SentencePiece they are ordinary tokens
    j = json.loads(t.to_str())
    j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
    t = Tokenizer.from_str(json.dumps(j))
    add_tokens(t)
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return t


def with_old_merges(t):
    """Merges spelled "a b", as files were before tokenizers 0.20."""
    j = json.loads(t.to_str())
    j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
    return Tokenizer.from_str(json.dumps(j)), j


def llama2(base):
    j = json.loads(base.to_str())
    j["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                           {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    j["pre_tokenizer"] = None
    j["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return Tokenizer.from_str(json.dumps(j))


def mixed(base):
    """The parts that the four others do not use, and a vocabulary without byte tokens, so that <unk> occurs."""
    j = json.loads(base.to_str())
    vocab, fresh = j["model"]["vocab"], {}
    for token in sorted(vocab, key=vocab.get):
        if not (len(token) == 6 and token.startswith("<0x")):
            fresh[token] = len(fresh)
    j["model"].update(vocab=fresh, byte_fallback=False, fuse_unk=False)
    j["added_tokens"] = [dict(a, id=fresh[a["content"]]) for a in j["added_tokens"] if a["content"] in fresh]
    j["post_processor"] = None
    j["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "NFKD"}, {"type": "Lowercase"}, {"type": "Replace", "pattern": {"Regex": r"\p{Mn}+"}, "content": ""},
        {"type": "Replace", "pattern": {"Regex": r"(?<=\d)[,.](?=\d)"}, "content": "·"},
        {"type": "Strip", "strip_left": True, "strip_right": True}]}
    j["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"String": "-"}, "behavior": "MergedWithPrevious", "invert": False},
        {"type": "Split", "pattern": {"Regex": r"[\r\n]+"}, "behavior": "Removed", "invert": False},
        {"type": "Split", "pattern": {"Regex": r"\w+|\s+"}, "behavior": "Contiguous", "invert": True},
        {"type": "Punctuation", "behavior": "MergedWithNext"}, {"type": "Digits", "individual_digits": True},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]}
    j["decoder"] = None
    return Tokenizer.from_str(json.dumps(j))


def assigned(c):
    """Assigned, and known to the package's normalizer, whose tables are of an older Unicode version than its regular expressions."""
    if unicodedata.category(chr(c)) in ("Cn", "Cs"):
        return False
    samples = [chr(c), "a\u0301" + chr(c), "a\u0327" + chr(c), chr(c) + "\u0327\u0301"]
    return all(NFKD.normalize_str(s) == unicodedata.normalize("NFKD", s) for s in samples)


def all_texts():
    rng = random.Random(20240229)
    texts = ["", " ", "  ", "   ", "\n", "\r\n", "\t", "\0", "a\0b", "▁", "▁▁ ▁", " ▁a", "a ▁", "Ġ", "Ċ", "<0x41>", "<unk>", "<s>hi</s>",
             "Hello, world!", "I'M you'Re we'LL they'd it's 'tis don't", "’s ‘t", "1 12 123 1234 12345678 3.14 1,000,000 ½ ² Ⅳ ٣٤ १२",
             "CRLF\r\nline\r\n\r\n  indented\r\n\tTab \n\n\n x", "a" * 150, " " * 90 + "x", "\n" * 99, "ab" * 150, "!?" * 70, "9" * 100,
             "é" * 50, "e\u0301" * 50, "\u0301\u0323" * 40, "\u0323\u0301x\u0301\u0323", "ｱｲｳ ﬁ ﬃ ㎏ Å Å", "각 각", "İ I ı ſ K",
             "👩‍👩‍👧‍👦👍🏽🇩🇪🏳️‍🌈", "a\u200bb\u200cc\u200dd\ufeffe", "\u180e a\u180e\u180e b", "x\u00a0y\u2003z\u3000w\u0085v\u2028u"]
    tokens = ["<|begin|>", "<|end|>", "<mask>", "Émile", "E\u0301mile", "<tool>", "<tool>>", "word", "<r>", "  "]
    fill = ["", " ", "  ", "a", "é", "x ", " y", "\n", "sword", "words", "1", "_", "<", ">", "\u3000", "你", "."]
    for a in tokens:
        for b in fill:
            texts += [b + a, a + b + a, "q" + b + a + b + "z"]
    for block in range(0, 0x20000, 0x80):  # every block that has characters
        chars = [chr(c) for c in range(block, block + 0x80) if assigned(c) and unicodedata.category(chr(c)) != "Co"]
        if chars and not (0x3500 <= block < 0x9F00 or 0xAC80 <= block < 0xD700 or 0x17000 <= block < 0x18D00) or block % 0x800 == 0 and chars:
            texts.append("".join(rng.sample(chars, min(len(chars), 12))))
            texts.append(" ".join(rng.sample(chars, min(len(chars), 5))) + "1")
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x500), (0x590, 0x700), (0x900, 0xE80), (0x2000, 0x2070), (0x3040, 0x3100),
              (0x4E00, 0x5200), (0xAC00, 0xAD00), (0x1F300, 0x1F700), (0, 0x20)]
    for _ in range(650):
        out = []
        for _ in range(rng.randint(1, 5)):
            low, high = rng.choice(ranges)
            out += [chr(c) for c in (rng.randrange(low, high) for _ in range(rng.randint(1, 5))) if assigned(c)]
            out.append(rng.choice(["", " ", "  ", "\n", "'s", "\u0301"]))
        texts.append("".join(out))
    for _ in range(160):  # code points from all planes
        texts.append("".join(chr(c) for c in (rng.randrange(0x110000) for _ in range(8)) if assigned(c)))
    for _ in range(150):  # prose
        at = rng.randrange(len(CORPUS) - 100)
        texts.append(CORPUS[at:at + rng.randint(1, 40)])
    return texts


def broken_utf8():
    rng = random.Random(7)
    samples = [b"\x80", b"a\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x82(\xac", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80\xf0\x9f", b"\xed\xa0\x80",
               b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xff\xfe", b"\xf5\x80", b"\xe0\x80\x80", b"ok\xe1\xa0\xc0\x80ok"]
    for _ in range(60):
        text = bytearray("añ你😀 x".encode() * 2)
        for _ in range(3):
            text[rng.randrange(len(text))] = rng.randrange(256)
        samples.append(bytes(text))
    return samples


def fnv(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        h = ((h ^ i) * 0x100000001B3) & (2 ** 64 - 1)
    return f"{h:016x}"


def reference(t, texts, broken):
    rng = random.Random(3)
    encode = lambda s: t.encode(s, add_special_tokens=False).ids
    ids = [encode(s) for s in texts]
    decoded = [t.decode(i, skip_special_tokens=False) for i in ids]
    size = t.get_vocab_size()
    lists = [[rng.randrange(size) if rng.random() < .5 else rng.randrange(min(size, 300)) for _ in range(rng.randint(1, 14))] for _ in range(100)]
    out = {"ids": ids, "decoded": [None if d == s else d for d, s in zip(decoded, texts)],
           "broken": [encode(b.decode("utf-8", "replace")) for b in broken],
           "with_special": [t.encode(s).ids for s in texts[:40]],
           "lists": lists, "list_texts": [t.decode(i, skip_special_tokens=True) for i in lists],
           "corpus": {"count": len(encode(CORPUS)), "fnv": fnv(encode(CORPUS))}}
    t.encode_special_tokens = True
    out["plain"] = [encode(s) for s in texts[40:160]]
    t.encode_special_tokens = False
    return out


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    base = metaspace()
    made = {"byte_level": byte_level(), "gpt2": gpt2(), "metaspace": base, "llama2": llama2(base), "mixed": mixed(base)}
    texts, broken = all_texts(), broken_utf8()
    result = {"texts": texts, "broken": [b.hex() for b in broken], "tokenizers": {}}
    for name, t in made.items():
        j = json.loads(t.to_str())
        if name in ("gpt2", "llama2"):
            t, j = with_old_merges(t)
        (OUT / name).mkdir(exist_ok=True)
        (OUT / name / "tokenizer.json").write_text(json.dumps(j, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        wide = name in ("byte_level", "metaspace")
        kept = texts if wide else [s for i, s in enumerate(texts) if i % 6 == 0]
        result["tokenizers"][name] = dict(step=1 if wide else 6, **reference(t, kept, broken))
    text = json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n"
    (OUT / "reference.json").write_text(text, encoding="utf-8")
    print(len(texts), "texts,", len(text.encode()), "bytes")


if __name__ == "__main__":
    main()
