"""Hurt files, as disks, networks, editors, converters and strangers make them; seeded, so that each comes again."""

import copy
import json
import math
import random
import re
from collections.abc import Callable
from typing import Any

import yaml

RAW = {  # a mark in a tree -> what stands for it in the text, which no writer would write
    "\ue000digits": "9" * 5000,
    "\ue000deep": "[" * 100_000,
    "\ue000huge": "1e999",
    "\ue000nested": "[" * 300 + "]" * 300,
}
PATHS = ("../../x.jpg", "/dev/zero", "~/x", "C:\\x.jpg", "..\\..\\x", "a/../../../etc/passwd", "x" * 300)
ODD = (
    "",
    " ",
    "x" * 100_000,
    "\0",
    "a\nb",
    "\x1b[2J\r",
    "é",
    "\u202e",
    "1",
    "-1",
    "1e5",
    "nan",
    "null",
    "true",
    "os.system",
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, -5, 1.5, 0.1, 1e308, -1e308, 1e-320, math.nan, math.inf, -math.inf),
    *(255, 256, 2**31, 2**63, 2**64, -(2**63), 10**25, 10**400),
    *([], {}, [[]], {"a": 1}, [1, 2, 3], [None], ["x"], {"": {}}, [0] * 1000),
    *(*RAW, *PATHS, *ODD),
)
WORDS = (
    *("0", "-5", "1.5", "1e308", "inf", "-inf", "255", "256", "2147483648", "1" + "0" * 30, "0x10", "٣"),
    *("9" * 25, "9" * 400, "9" * 5000, "x" * 200_000, *PATHS, *ODD),
    *("'", '"', ";", "\t", "\n", "\r", ",", "<", "&", "{", "[" * 3000, "- " * 2000, "<a>" * 3000, "&lol;", "<![CDATA["),
    *("<!DOCTYPE a [<!ENTITY b 'c'>]>", "*a", "&a [*a]", "!!python/object/apply:os.system [ls]"),
)


def hurt_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, inserted, deleted, repeated, overwritten or moved bytes, once to five times."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        # Headers are short and most of what can go wrong is there.
        at = rng.randrange(min(len(data), rng.choice((64, 1024, 1 << 30))) + 1)
        size = rng.choice((1, 2, 4, 16, 256, 4096))
        how = rng.randrange(8)
        if how == 0:
            for _ in range(rng.choice((1, 4, 32))):
                if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[at:]
        elif how == 2:
            data[at:at] = rng.randbytes(size)
        elif how == 3:
            del data[at : at + size]
        elif how == 4:
            data[at:at] = data[at : at + size] * rng.choice((1, 1, 50))
        elif how == 5:
            data[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
        elif how == 6:
            data[at : at + size] = rng.randbytes(size)
        else:
            other = rng.randrange(len(data) + 1)
            data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
    return bytes(data)


def hurt_text(content: bytes, rng: random.Random) -> bytes:
    """Numbers, words and lines of any text replaced, removed, repeated or moved; another encoding; or hurt bytes."""
    if rng.random() < 0.25:
        return hurt_bytes(content, rng)
    text = content.decode()
    for _ in range(rng.choice((1, 1, 2, 4))):
        how = rng.randrange(6)
        if how < 4:
            pattern = (r"-?\d+(\.\d+)?", r"[^\s\"<>,:{}\[\]]+", r'"[^"]*"', r"(?<=>)[^<>]*(?=<)")[how]
            places = list(re.finditer(pattern, text))
            if places:
                start, stop = rng.choice(places).span()
                text = text[:start] + rng.choice(WORDS) + text[stop:]
        else:
            lines = text.splitlines(keepends=True) or [""]
            at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
            if how == 4:
                lines[at] = rng.choice(("", lines[at] * 2, lines[at] * 500, lines[at].upper(), lines[at].strip()))
            else:
                lines[at], lines[other] = lines[other], lines[at]
            text = "".join(lines)
    encoding = rng.choice(("utf-8",) * 9 + ("utf-8-sig", "utf-16", "utf-16-be", "latin-1"))
    return text.encode(encoding, errors="replace")


def hurt_tree(tree: Any, rng: random.Random) -> Any:
    """A copy with one to three of its values replaced, removed, repeated, wrapped or under another key."""
    holder = [copy.deepcopy(tree)]
    for _ in range(rng.choice((1, 1, 1, 3))):
        places = list(_places(holder))
        parent, key = rng.choice(places)
        how = rng.randrange(8)
        if how < 4 or parent is holder:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        elif how == 4:
            del parent[key]
        elif how == 5:
            parent[key] = rng.choice(([parent[key]], {"a": parent[key]}, str(parent[key]), [parent[key]] * 3))
        elif how == 6 and isinstance(parent, list):
            parent.insert(key, parent[rng.randrange(len(parent))])
        else:
            other_parent, other = rng.choice(places)
            parent[key] = copy.deepcopy(other_parent[other])
    return holder[0]


def _places(node: Any) -> Any:
    """(parent, key) of every value."""
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, child in pairs:
        yield node, key
        yield from _places(child)


def hurt_json(content: bytes, rng: random.Random) -> bytes:
    """Half of the time by its tree, else by its text."""
    if rng.random() < 0.5:
        return hurt_text(content, rng)
    text = json.dumps(hurt_tree(json.loads(content), rng), indent=rng.choice((None, 1)))
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    return text.encode()


def hurt_yaml(content: bytes, rng: random.Random) -> bytes:
    """Half of the time by its tree, else by its text."""
    if rng.random() < 0.5:
        return hurt_text(content, rng)
    text = yaml.safe_dump(hurt_tree(yaml.safe_load(content), rng), sort_keys=False)
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw if len(raw) < 10_000 else raw[:2000])
    return text.encode()


HURT: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes": hurt_bytes,
    "text": hurt_text,
    "json": hurt_json,
    "yaml": hurt_yaml,
}
