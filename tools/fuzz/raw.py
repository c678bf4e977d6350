"""Mutations that know nothing of a file but its bytes, its lines or its cells."""

import random

from tools.fuzz.trees import TEXTS, Unchanged

_CELLS = (
    *("", "nan", "inf", "-1", "0", "1e308", "-1e308", "1e-320", "1" + "0" * 5000, "true", "１２"),
    *("x" * 200_000, '"', '"open', "\x00", "\x1b[31m", "=1+1", *TEXTS[:8]),
)


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes that were cut, flipped, repeated, or are of another file altogether."""
    if isinstance(rng, Unchanged):
        return data
    for _ in range(rng.choice((1, 1, 2, 5))):
        data = _changed(data, rng)
    return data


def _changed(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 4, 64, 4096)))
    flipped = bytearray(data)
    for _ in range(rng.choice((1, 8, 200))):
        if flipped:
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    # Headers are short and decide most: a third of the flips are in the first bytes.
    early = bytearray(data)
    if early:
        early[rng.randrange(min(len(early), 64))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return rng.choice(
        (
            lambda: data[:at],
            lambda: bytes(flipped),
            lambda: bytes(early),
            lambda: data[:at] + rng.randbytes(rng.choice((1, 16, 1000))) + data[at:],
            lambda: data[:at] + data[end:],
            lambda: data[:at] + data[at:end] * 20 + data[end:],
            lambda: data[:at] + b"\x00" * (end - at) + data[end:],
            lambda: data + b"\x00" * rng.choice((1, 100_000)),
            lambda: rng.choice((b"", b"\x00", b"\xff\xfe", b"\n" * 10_000, b"PK\x03\x04", b"%PDF")),
            lambda: data.decode("latin-1").encode("utf-16"),
        )
    )()


def mutated_lines(text: str, rng: random.Random, *, between: str = ",") -> bytes:
    """Lines of cells with changed cells, lines dropped and repeated, other ends and encodings."""
    if isinstance(rng, Unchanged):
        return text.encode()
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        cells = lines[at].split(between)
        kind = rng.randrange(7)
        if kind <= 3:
            cells[rng.randrange(len(cells))] = rng.choice(_CELLS)
            lines[at] = between.join(cells)
        elif kind == 4:
            lines[at] = between.join(cells[:-1] or [between])
        elif kind == 5:
            lines[at:at] = [lines[at]] * rng.choice((1, 5000))
        elif len(lines) > 1:
            del lines[at]
    found = "\n".join(lines)
    ending = rng.randrange(12)
    if ending == 0:
        return found.replace("\n", "\r\n").encode("utf-8-sig", "surrogatepass")
    if ending == 1:
        return found.encode("utf-16", "surrogatepass")
    if ending == 2:
        return found.encode("utf-8", "surrogatepass") + b"\xff\xfe\x00"
    return found.encode("utf-8", "surrogatepass")


def option(good: str, rng: random.Random) -> str:
    """A word of a command line in place of a good one. No word can hold a zero byte."""
    if isinstance(rng, Unchanged):
        return good
    numbers = ("nan", "inf", "-1", "0", "1e308", "1e-320", "9" * 5000, "1e999", "0x10", "1_0")
    units = ("ms", "s", "M", "%", "", "kB", "light-years", "m s", "ＭＢ")
    kind = rng.randrange(5)
    if kind == 0:
        word = rng.choice(numbers) + rng.choice(units)
    elif kind == 1:
        word = good.replace("<=", rng.choice(("<", ">=", "==", "<=<=", " <= ", "", "≤", "@x<=")))
    elif kind == 2:
        word = f"{good.rpartition('=')[0]}={rng.choice(numbers)}{rng.choice(units)}"
    elif kind == 3:
        word = rng.choice((*TEXTS, "-", "--", "--help", "@", "a=b=c", " ", "\udcff"))
    else:
        at = rng.randrange(len(good) + 1)
        word = good[:at] + rng.choice("\t\n\x1b0-.<=@ é") + good[at + rng.randrange(2) :]
    return word.replace("\x00", "").replace("\ud800", "")
