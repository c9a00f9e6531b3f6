#!/usr/bin/env python3
"""Writes unicode_classes.inc: the general category of every character, as ranges.

    python trainer/data/unicode_classes.py > trainer/data/unicode_classes.inc

It asks the regular expressions of the `tokenizers` package, one category at a time, so that the version of Unicode is the
one those split by. Each number is first character of a range << 8 | category; a range ends where the next begins.
"""
from tokenizers import Regex, normalizers

CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co".split()
CHARACTERS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def members(category):
    erase = normalizers.Replace(Regex(r"\p{%s}" % category), "")
    found = set()
    for begin in range(0, len(CHARACTERS), 4096):
        block = CHARACTERS[begin : begin + 4096]
        left = set(map(ord, erase.normalize_str("".join(map(chr, block)))))
        found |= {c for c in block if c not in left}
    return found


def main():
    category_of = [0] * 0x110000
    for number, category in enumerate(CATEGORIES):
        if category in ("Cn", "Cs"):
            continue
        for character in members(category):
            category_of[character] = number
    category_of[0xD800:0xE000] = [CATEGORIES.index("Cs")] * 0x800
    ranges, last = [], None
    for character, category in enumerate(category_of):
        if category != last:
            ranges.append(f"0x{character << 8 | category:x},")
            last = category
    print("// Written by unicode_classes.py; %d ranges." % len(ranges))
    line = ""
    for text in ranges:
        if len(line) + len(text) + 1 > 118:
            print(line)
            line = ""
        line += (" " if line else "") + text
    print(line)


main()
