"""Texts that tell tokenizers apart: white space, digits, scripts, emoji, markup, controls."""

from __future__ import annotations

import random

CORPUS = """
The capital of France is Paris, and the capital of Germany is Berlin.  In 2024 there were 1,234,567
people; in 1999 only 999.  It's what they're saying: we'll see, don't you think? I'M SURE.
def fibonacci(n):\n    if n < 2:\n        return n\n\treturn fibonacci(n - 1) + fibonacci(n - 2)\n\n
Größe, naïve café, Ångström, señor. 日本語のテキストと中文。 Ελληνικά και кириллица. العربية
emoji 😀 👨‍👩‍👧‍👦 🇫🇷   three spaces\n\n\nnew   lines\t\ttabs https://example.com/a?b=c&d=%20#e
"""

STRINGS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    "\t\t",
    "The capital of France is",
    " leading and trailing ",
    "a  b   c    d",
    "in 2024 and  1999, 3.14159",
    "1234567890",
    "x = 10\n    y  = 20\n",
    "don't they're I'M WE'LL",
    "naïve Größe Ångström n\u0303",
    "日本語 中文 кириллица العربية",
    "😀👨‍👩‍👧‍👦🇫🇷 unseen: 🦜 ☃ 𝔘",
    "<s>special</s> <start>tag<end>",
    "\u00a0\u200b\ufeff",
    "\r\n\r\n",
    "\x00\x01\x7f",
    "a<0x0A>b",
    "def fibonacci(n):\n    return n\n",
    "https://example.com/a?b=c",
    " " * 45 + "x" + "\n" * 40,
    "1 12 123 1234 12345 123456789012 ٣٤٥ １２３ ½ Ⅻ 1,000.5e-10 0x1F",
    "我想在apple工作1314151天～ 한국어 ภาษาไทย हिन्दी বাংলা",
    "e\u0301 A\u030a \u1112\u1161\u11ab q\u0307\u0323 \u0344 \u2126 \ufb01 \u1e9b\u0323",
    "👩🏽‍🚀 🏳️‍🌈 1️⃣ 😶\u200d🌫️ ❤\ufe0f\u200d🔥",
    "   leading\n  \n   mixed \t white\u3000space\u2003\u00a0 \r\n trailing   ",
    "\t\t\n \n\t x\v\f\x85\u2028\u2029y",
    "I'll you'RE we'Ve 'tis O'Brien's d'être ''''`````` l\u2019homme",
    "if (a<=b&&c!=d){ret[i]->x/=2;}//done\n#!/bin/sh\\n\n/* */ \\u0041",
    "שלום עולם \u202eabc\u202c مرحبا، كيف؟ \u061c",
    "<|im_start|>user\n<|end|> <pad><unk></s><mask> [INST] <0xFF> <|endoftext|>",
    "ALLCAPS CamelCase snake_case kebab-case ÀÉÎ ǅ ʰ ª İıẞß",
    "\ufffd \ufeff\u200b\u2060\x1b[0m \U0010ffff",
]


def random_strings(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    pieces = [
        " ",
        "  ",
        "\n",
        "\t",
        "1",
        "20",
        "the",
        "capital",
        "is",
        "é",
        "日",
        "😀",
        "'s",
        ".",
        "<",
    ]
    return ["".join(rng.choices(pieces, k=rng.randint(1, 30))) for _ in range(count)]


ALL_STRINGS = [*STRINGS, *random_strings(200, seed=1)]
