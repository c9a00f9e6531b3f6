#!/usr/bin/env python3
"""Trains three small tokenizers and writes what Python's `tokenizers` makes of hard texts with them.

    python tests/golden/tokenizer_golden.py tests/golden/tokenizers            # writes
    python tests/golden/tokenizer_golden.py tests/golden/tokenizers --check build/starling    # compares what is installed now
                                 # with the files, and with `starling tokenize` on texts that nobody has seen (--seed N)

Their pre-tokenizers are those of GPT-2, Llama 3 and SmolLM. cases.json: texts as hex (not all are UTF-8), and for each
tokenizer the ids, and those with special tokens taken as text where they differ. (The ids decode to the text, with U+FFFD
for what was no UTF-8.) random_ids: ids that no text leads to, and what they decode to as hex. all_characters: BLAKE2b-256
of the ids (int32, little-endian) of a text in which nearly every character stands beside a letter, a space and a digit.
"""
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

try:
    from tokenizers import AddedToken, Regex, Tokenizer, __version__, decoders, models, pre_tokenizers, processors, trainers
except ImportError:  # the folder of that name beside this script is a package too, but an empty one
    print("skipped: Python has no tokenizers here")
    sys.exit(77)

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "llama3": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    ),
}
VOCABULARY = {"gpt2": 700, "llama3": 900, "smollm": 640}

# A line in many languages and scripts; what is trained on and, cut and mixed, what is tested.
LINES = [
    "The workers that come and go still finish the run, don't they? It's what we've said all along; they'll see, I'm sure.",
    "Half of the machines may leave in the middle of a step, and the loss goes on falling and falling.",
    "for (int i = 0; i < n; ++i) { total += values[i]; }  // the sum of all values\n\treturn total;\n",
    "Der Läufer läuft schnell über die grüne Wiese, und die Straße ist größer geworden.",
    "Le garçon a mangé une crêpe à l'école, où il était très élève déjà.",
    "El niño comió piñas en el jardín mañana por la mañana, ¿verdad? ¡Sí!",
    "Быстрая лиса прыгает через ленивую собаку, а потом идёт домой.",
    "Η γρήγορη αλεπού πηδά πάνω από το τεμπέλικο σκυλί.",
    "השועל המהיר קופץ מעל הכלב העצלן.",
    "الثعلب السريع يقفز فوق الكلب الكسول، ثم يعود إلى البيت.",
    "तेज़ लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "দ্রুত শিয়াল অলস কুকুরের উপর লাফ দেয়।",
    "วันนี้อากาศดีมากและฉันจะไปเดินเล่น",
    "今天天气很好,我们去公园散步吧。",
    "今日は天気がいいので、公園へ散歩に行きましょう。カタカナも書きます。",
    "오늘은 날씨가 좋아서 공원에 산책하러 갑니다.",
    "Հայերեն տեքստ, ქართული ტექსტი, አማርኛ ጽሑፍ, தமிழ் உரை, ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
    "x² + y² = z², ½ of ¾, Ⅷ and ⅻ, ①②③, ٣٤٥, ९८७, 𝟙𝟚𝟛, 1234567890 3.14159 1,000,000",
    "😀😃 👨‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☃︎",
    "e\u0301 n\u0303 a\u0308\u0304 o\u0302\u0323 Z\u0351\u036b\u0343 \u0915\u094d\u0937 \u1100\u1161\u11a8",
]
SPECIAL = ["<|endoftext|>", "<|begin_of_text|>", "<|im_start|>", "<|im_start|>user"]


def train(kind):
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    tokenizer.pre_tokenizer = SPLITS[kind]()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY[kind],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"] if kind == "gpt2" else [],
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(["verylongtoken", AddedToken("  wide", normalized=False)])
    if kind == "llama3":
        begin = "<|begin_of_text|>"
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{begin} $A",
                    pair=f"{begin} $A {begin}:1 $B:1",
                    special_tokens=[(begin, tokenizer.token_to_id(begin))],
                ),
            ]
        )
        # A whole word that no merge leads to.
        file = json.loads(tokenizer.to_str())
        word = next(token for token in file["model"]["vocab"] if len(token) > 5)
        file["model"]["merges"] = [merge for merge in file["model"]["merges"] if "".join(merge) != word]
        tokenizer = Tokenizer.from_str(json.dumps(file))
    return tokenizer


def texts():
    out = [b"", b" ", b"a", *(line.encode() for line in LINES)]
    out += [
        b"  leading and trailing  ",
        b"\n\n\r\n\r\r\n \n  \n\t\t x\t\ty \r\n",
        b"line one\r\nline two\r\n\r\n  indented\r\n",
        "nbsp\u00a0here\u3000wide\u2003em\u200bzero\u180emongol\u0085next\u2028line\u2029par\ufeffbom".encode(),
        "I'M HE'S don't CAN'T we'Ve THEY'LL i'd o'\u017f o\u2019s ' 's''t'rex'".encode(),
        b"12345678901234567890 1 22 333 4444 55555 a1b22c333 0x7fff 1e-9 +-*/=!@#$%^&*()_[]{}|;:,.<>?`~",
        "abc123def\u0660\u0661\u0662\u00b2\u00bd\u2167".encode(),
        b"<|endoftext|><|endoftext|>a<|begin_of_text|> <|im_start|>user\n<|im_start|>use <|im_start| <|endoftext|",
        b"verylongtokenverylongtoke nverylongtoken  wide   wide wide",
        b"_under_score__ --- === ... !!! ??? \\n \\\\ //",
        bytes(range(256)),
        b"bad \xff\xfe bytes \xc3( \xe2\x82 \xf0\x9f\x98 \xed\xa0\x80 \xc0\xaf \xf4\x90\x80\x80 end\xe2",
        b"\xe2\x82\xac\xe2\x82",
        b"a" * 300 + b" " * 300 + b"ab" * 150 + b"\n" * 50,
        "\u0301\u0301 leading marks, \u200d\ufe0f joiners \ue000 private \U0010ffff last \x00 zero \x7f".encode(),
    ]
    draw = random.Random(1234)
    spans = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80), (0x1100, 0x1200),
             (0x1680, 0x1690), (0x2000, 0x2070), (0x2100, 0x2190), (0x2460, 0x2500), (0x3000, 0x3100), (0x4E00, 0x4E80),
             (0xAC00, 0xAC80), (0xFE00, 0xFFFE), (0x10000, 0x10100), (0x1D400, 0x1D800), (0x1F300, 0x1F650), (0xE0000, 0xE0080)]  # fmt: skip
    common = [" ", "  ", "\n", "\r\n", "\t", "'s", "'Ll", "'", "a", "Z", "the", "é", "7", "42", "100000", ".", ",", "-", "</"]
    pieces = [word for line in LINES for word in line.split(" ")] + SPECIAL
    for _ in range(120):
        text = b""
        for _ in range(draw.randrange(2, 24)):
            kind = draw.random()
            if kind < 0.4:
                text += draw.choice(common).encode()
            elif kind < 0.6:
                text += draw.choice(pieces).encode()
            elif kind < 0.97:
                low, high = draw.choice(spans)
                text += chr(draw.randrange(low, high)).encode()
            else:
                text += bytes([draw.randrange(128, 256)])
        out.append(text)
    return out


# Unicode 17's digits are left out: `Digits` knows them already, `\\p{N}` of the patterns does not.
LEFT_OUT = {*range(0x11DE0, 0x11DEA), 0x16FF4, 0x16FF5, 0x16FF6, *range(0xD800, 0xE000)}
KNOWN_ALIKE = [c for c in [*range(0x33480), *range(0xE0000, 0xE0200), *range(0xF0000, 0xF0010)] if c not in LEFT_OUT]


def all_characters():
    return "".join(f"x{chr(c)} {chr(c)}1" for c in KNOWN_ALIKE)


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def describe(tokenizer, encoded):
    out = {"ids": [], "ids_as_text": {}}
    for index, text in enumerate(encoded):
        text = text.decode("utf-8", errors="replace")
        ids = ids_of(tokenizer, text)
        out["ids"].append(ids)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        tokenizer.encode_special_tokens = True
        as_text = ids_of(tokenizer, text)
        tokenizer.encode_special_tokens = False
        if as_text != ids:
            out["ids_as_text"][str(index)] = as_text
    ids = ids_of(tokenizer, all_characters())
    out["all_characters"] = hashlib.blake2b(struct.pack(f"<{len(ids)}i", *ids), digest_size=32).hexdigest()
    # Single tokens and cut characters, which no text leads to.
    draw = random.Random(99)
    out["random_ids"] = [[draw.randrange(tokenizer.get_vocab_size()) for _ in range(12)] for _ in range(40)]
    out["random_ids_decoded"] = [
        tokenizer.decode(ids, skip_special_tokens=True).encode().hex() for ids in out["random_ids"]
    ]
    return out


# Characters of every script, alone and in runs, between what is common.
def unseen_texts(draw, count):
    out = []
    for _ in range(count):
        text = ""
        for _ in range(draw.randrange(1, 60)):
            kind = draw.random()
            if kind < 0.5:
                text += draw.choice([" ", " ", "\n", "\t", "\r", "'", ".", "a", "e", "S", "0", "1", "'s", "'LL", "  ", "\r\n", *SPECIAL])
            elif kind < 0.7:
                line = draw.choice(LINES)
                begin = draw.randrange(len(line))
                text += line[begin : begin + draw.randrange(12)]
            elif kind < 0.8:
                block = draw.choice([0x80, 0x370, 0x590, 0x900, 0x2000, 0x3000, 0x4E00, 0xAC00, 0x1F300, 0x1D400])
                text += "".join(chr(block + draw.randrange(256)) for _ in range(draw.randrange(4)))
            else:
                text += chr(draw.choice(KNOWN_ALIKE))
        if text.strip(" \t\r\n\f\v"):
            out.append(text)
    return out


def compare_live(starling, path, unseen):
    tokenizer = Tokenizer.from_file(path)
    tokenizer.encode_special_tokens = True
    has_begin = json.load(open(path))["post_processor"] is not None
    begin = [tokenizer.token_to_id("<|begin_of_text|>")] if has_begin else []
    wanted = []
    for text in unseen:
        wanted += begin + ids_of(tokenizer, text) + [tokenizer.token_to_id("<|endoftext|>")]
    with tempfile.TemporaryDirectory() as folder:
        texts_path = os.path.join(folder, "texts.jsonl")
        with open(texts_path, "w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in unseen)
        out = os.path.join(folder, "out")
        subprocess.run(
            [starling, "tokenize", texts_path, "--documents", "jsonl", "--tokenizer", path, "--out", out, "--format", "uint32"],
            check=True,
        )
        with open(out + "_000000.uint32", "rb") as file:
            data = file.read()
    if list(struct.unpack(f"<{len(data) // 4}I", data)) != wanted:
        sys.exit(f"{path}: starling tokenize gives other ids than tokenizers {__version__}")


def main():
    folder = sys.argv[1]
    check = "--check" in sys.argv
    cases = {"texts": [text.hex() for text in texts()]}
    for kind in SPLITS:
        path = os.path.join(folder, kind + ".json")
        if not check:
            os.makedirs(folder, exist_ok=True)
            with open(path, "w") as file:
                json.dump(json.loads(train(kind).to_str()), file, separators=(",", ":"))
        cases[kind] = describe(Tokenizer.from_file(path), texts())
    path = os.path.join(folder, "cases.json")
    if check:
        if json.load(open(path)) != cases:
            sys.exit("what tokenizers makes of the texts is not what cases.json has")
        starling = sys.argv[sys.argv.index("--check") + 1]
        seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 1
        unseen = unseen_texts(random.Random(seed), 3000)
        for kind in SPLITS:
            compare_live(starling, os.path.join(folder, kind + ".json"), unseen)
    else:
        with open(path, "w") as file:
            json.dump(cases, file, separators=(",", ":"))


if __name__ == "__main__":
    main()
