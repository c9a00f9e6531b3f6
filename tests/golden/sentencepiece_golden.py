#!/usr/bin/env python3
"""Trains two small SentencePiece models and writes what Python's `sentencepiece` makes of the texts of tokenizer_golden.py.

    python tests/golden/sentencepiece_golden.py tests/golden/sentencepiece

bpe: as Llama 2's (bytes for what has no piece, digits one by one, spaces as they are). unigram: spaces tidied, no bytes.
"""
import io
import json
import os
import random
import sys

import sentencepiece
from tokenizer_golden import LINES, texts

MODELS = {
    "bpe": dict(model_type="bpe", vocab_size=700, byte_fallback=True, split_digits=True, remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True),  # fmt: skip
    "unigram": dict(model_type="unigram", vocab_size=420, user_defined_symbols=["<sep>"]),
}


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    cases = {}
    for name, options in MODELS.items():
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line for line in LINES for _ in range(3)]),
            model_writer=model,
            normalization_rule_name="identity",
            character_coverage=0.98,
            minloglevel=2,
            **options,
        )
        with open(os.path.join(folder, name + ".model"), "wb") as file:
            file.write(model.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        valid = [text.decode("utf-8", errors="replace") for text in texts()] + ["a<sep>b", " two  words "]
        ids = [processor.encode(text) for text in valid]
        draw = random.Random(7)
        odd = [[draw.randrange(processor.get_piece_size()) for _ in range(10)] for _ in range(40)]
        space = processor.piece_to_id("\u2581")
        odd += [[space, space, 5 + i, space] for i in range(3)]
        cases[name] = {
            "texts": [text.encode().hex() for text in valid],
            "ids": ids,
            "decoded": [processor.decode(list_of_ids).encode().hex() for list_of_ids in ids],
            "random_ids": odd,
            "random_ids_decoded": [processor.decode(list_of_ids).encode().hex() for list_of_ids in odd],
        }
    texts_once = cases["bpe"].pop("texts")
    assert texts_once == cases["unigram"].pop("texts")
    cases["texts"] = texts_once
    with open(os.path.join(folder, "cases.json"), "w") as file:
        json.dump(cases, file, separators=(",", ":"))


main()
