"""A writer of PNG files of every kind, by the specification alone: depths, colour types, filters, interlace, extra chunks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # row, column, steps
Chunks = Sequence[tuple[bytes, bytes]]


def encode(
    values: np.ndarray, kind: int, depth: int, random: np.random.Generator, *, interlaced: bool, before: Chunks, after: Chunks
) -> bytes:
    """[row, column, sample] as a PNG file, every line with a random filter; chunks before and after the pixels."""
    rows, columns, _ = values.shape
    passes = [values[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [values]
    lines = b"".join(_filtered(each, depth, random) for each in passes if each.size)
    head = struct.pack(">IIBBBBB", columns, rows, depth, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", head), *before, (b"IDAT", zlib.compress(lines)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def orientation(number: int) -> tuple[bytes, bytes]:
    """An eXIf chunk with nothing but this tag."""
    return b"eXIf", b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 274, 3, 1, number, 0) + b"\0\0\0\0"


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, data = chunk
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _filtered(values: np.ndarray, depth: int, random: np.random.Generator) -> bytes:
    step, previous, out = max(1, depth * values.shape[2] // 8), None, b""
    for row in values:
        line = _packed(row.ravel(), depth)
        up = np.zeros_like(line) if previous is None else previous
        left, corner = (np.concatenate([np.zeros(step, np.int64), each])[: len(line)] for each in (line, up))
        kind = int(random.integers(5))
        guess = (np.zeros_like(line), left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
        out += bytes([kind]) + ((line - guess) % 256).astype(np.uint8).tobytes()
        previous = line
    return out


def _packed(samples: np.ndarray, depth: int) -> np.ndarray:
    if depth == 16:
        return np.frombuffer(samples.astype(">u2").tobytes(), np.uint8).astype(np.int64)
    bits = (samples[:, None].astype(np.int64) >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).astype(np.int64)


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    near = np.abs(np.stack([left, up, corner]) - (left + up - corner))
    return np.choose(near.argmin(0), [left, up, corner])
