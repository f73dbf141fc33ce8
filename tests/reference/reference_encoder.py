#!/usr/bin/env python3
"""A slow encoder of version-1 tensor blobs, written from docs/FORMAT.md alone; make_vectors.py makes the committed
vectors with it.

    reference_encoder.py   prints the worked example of FORMAT.md 1.10

It makes every choice that the format leaves open at random (padding, runs of the code table, skips, the path of a
trellis), so that a decoder cannot depend on the habits of one encoder."""
import heapq
import itertools
import os
import struct
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
RAW, INT8, RD, LOSSLESS = range(4)
BF16, FP16, F32 = 1, 2, 3
MASKS = {  # FORMAT.md 1.6: (bits an element, mask), in the order stored
    (8, 0): [], (8, 1): [(1, 0x01010101)], (8, 2): [(2, 0x03030303)], (8, 3): [(2, 0x03030303), (1, 0x04040404)],
    (8, 4): [(4, 0x0F0F0F0F)], (8, 5): [(4, 0x0F0F0F0F), (1, 0x10101010)],
    (16, 3): [(2, 0x00030003), (1, 0x00040004)], (16, 4): [(4, 0x000F000F)], (16, 5): [(4, 0x000F000F), (1, 0x00100010)], (16, 6): [(4, 0x000F000F), (2,
                                                                                                         0x00300030)],
    (16, 7): [(4, 0x000F000F), (2, 0x00300030), (1, 0x00400040)], (16, 8): [(8, 0x00FF00FF)],
    'bf16': [(8, 0x807F807F)], 'fp16': [(8, 0x807F807F), (2, 0x01800180), (1, 0x02000200)],
}


def align(x, a):
    return (x + a - 1) // a * a


def f32_to_bf16(x):
    u = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_to_f32(h):
    return (np.asarray(h, np.uint16).astype(np.uint32) << 16).view(np.float32)


class Spec:
    """What the header says, and the tuples that have a code. Keyword arguments override."""

    def __init__(self, **kw):
        self.mode, self.dtype, self.layout, self.tuple, self.levels = RD, BF16, 8, 2, 16
        self.hi_min, self.planes, self.max_length, self.tile_cols = -8, 0, 12, 128
        self.row_scale, self.col_scale, self.scale = 1, 0, 0.25
        self.fold = 0
        self.trellis = 0
        self.paths = None    # with a trellis, the words of each tile: follow_paths
        self.stand_in = 0    # the digit of outliers
        self.rows = self.cols = 0
        self.drop = 0        # how many of the tuples that occur get no code
        self.extra = 0       # how many tuples that do not occur get one
        self.lengths = None  # the code; None = made from the data
        self.row_values = self.col_values = None  # as stored: bit patterns (or f32)
        self.short_skips = False
        self.near_padding = False  # padding is always the shortest code, not one as long as the data's
        self.odd_scales = False
        self.wide = False    # tiles with 16-bit lane lengths even where 8 bits would do
        for k, v in kw.items():
            assert hasattr(self, k), k
            setattr(self, k, v)

    def digits_of(self, index):
        return [index // self.levels ** n % self.levels for n in range(self.tuple)]

    def stand_ins(self):
        return (self.stand_in,) * self.tuple

    def low_bits(self):
        return self.planes + self.trellis

    def masks(self):
        if self.mode == LOSSLESS:
            return MASKS[('', 'bf16', 'fp16')[self.dtype]]
        return [(p, mask << 2 * self.trellis) for p, mask in MASKS[self.layout, self.planes - self.trellis]]


def lane_order(spec, lane, W):
    """(row, column) of every element of a lane, in its order (1.5)."""
    g, t = lane // 4, lane % 4
    out = []
    for k in range(W // (32 if spec.layout == 8 else 16)):
        for i in range(4):
            for b in range(32 // spec.layout):
                if spec.layout == 8:
                    out.append((g + 8 * (i % 2), 32 * k + 4 * t + 16 * (i // 2) + b))
                else:
                    out.append((g + 8 * (i % 2), 16 * k + 2 * t + 8 * (i // 2) + b))
    return out


def split(spec, e):
    """element -> (hi or exponent field, raw bits in place)"""
    e = int(e)
    if spec.mode != LOSSLESS:  # the sign of a folded integer is added to its raw bits where they are stored
        return e >> spec.low_bits(), e & ((1 << spec.low_bits()) - 1)
    return ((e >> 7) & 255, e & 0x807F) if spec.dtype == BF16 else ((e >> 10) & 31, e & 0x83FF)


def digit_of(spec, hi):
    d = hi - spec.hi_min
    if spec.fold and d < 0:
        d = -1 - d
    if spec.mode == LOSSLESS:
        d %= 256 if spec.dtype == BF16 else 32
    return d


def correction(spec, hi, digit):
    """What must be added to the decoded hi to get the wanted one, or None if an s8 cannot say it."""
    v = digit_of(spec, hi) - digit
    if spec.fold and hi < 0:
        v = -v
    if spec.mode == LOSSLESS:
        m = 256 if spec.dtype == BF16 else 32
        v = (v + m // 2) % m - m // 2
    return v if -128 <= v <= 127 else None


def package_merge(weights, limit):
    """Optimal code lengths of at most `limit` for positive weights."""
    items = sorted((w, (i,)) for i, w in enumerate(weights))
    packages = []
    for _ in range(limit):
        merged = sorted(items + packages, key=lambda x: x[0])
        packages = [(merged[j][0] + merged[j + 1][0], merged[j][1] + merged[j + 1][1]) for j in range(0,
            len(merged) - 1, 2)]
    lengths = [0] * len(weights)
    for _, members in packages[:len(weights) - 1]:
        for m in members:
            lengths[m] += 1
    return lengths


def canonical(lengths):
    codes, code, last = {}, 0, 0
    for length, index in sorted((l, i) for i, l in enumerate(lengths) if l):
        code <<= length - last
        codes[index] = (code, length)
        code += 1
        last = length
    return codes


def table_nibbles(lengths, rng):
    out, i = [], 0
    while i < len(lengths):
        run = 1
        while i + run < len(lengths) and lengths[i + run] == lengths[i]:
            run += 1
        use_run = rng.random() < 0.9
        if lengths[i] == 0 and run >= 19 and use_run:
            n = min(run, 274)
            out += [15, (n - 19) % 16, (n - 19) // 16]
            i += n
        elif lengths[i] == 0 and run >= 3 and use_run and rng.random() < 0.9:
            n = min(run, 18)
            out += [14, n - 3]
            i += n
        elif run >= 4 and use_run:
            n = min(run - 1, 18)
            out += [lengths[i], 13, n - 3]
            i += n + 1
        else:
            out.append(lengths[i])
            i += 1
    return out


def pack_nibbles(nibbles):
    nibbles = nibbles + [0] * (len(nibbles) % 2)
    return bytes(nibbles[i] | nibbles[i + 1] << 4 for i in range(0, len(nibbles), 2))


def tiles_of(spec):
    nk = -(-spec.cols // spec.tile_cols)
    for rb in range(-(-spec.rows // 16)):
        for cb in range(nk):
            cols = min(spec.tile_cols, spec.cols - cb * spec.tile_cols)
            yield rb * 16, cb * spec.tile_cols, min(16, spec.rows - rb * 16), cols, \
                spec.tile_cols if cb + 1 < nk else align(cols, 32)


def path_lows(spec, words):
    """The lowest two bits of every element that the words of one lane's path have a bit for, as (register, element) -> bits."""
    w = [0] * 3 + [int(word) >> bit & 1 for word in words for bit in range(32)]
    lows = {}
    for n in range(32 * len(words)):
        p, s = w[n + 3] ^ w[n + 2] ^ w[n], w[n + 1]
        lows[n // 32 * spec.layout + n % spec.layout, n % 32 // spec.layout] = 2 * p + s
    return lows


def follow_paths(spec, m, rng):
    """Draws the path of every lane and gives each integer the lowest two bits that its path says."""
    spec.rows, spec.cols = m.shape
    spec.paths, per = [], 32 // spec.layout
    for row0, col0, rows, cols, W in tiles_of(spec):
        registers = W * spec.layout // 64
        path = rng.integers(0, 1 << 32, (-(-registers // spec.layout), 32), np.uint64)
        spec.paths.append(path)
        for lane in range(32):
            lows = path_lows(spec, path[:, lane])
            for n, (r, c) in enumerate(lane_order(spec, lane, W)):
                if r < rows and c < cols:
                    m[row0 + r, col0 + c] = m[row0 + r, col0 + c] & ~3 | lows[n // per, n % per]


def wanted_tuples(spec, m, tile):
    """For each lane the tuples of digits wanted: None = padding, an int perhaps outside of the alphabet otherwise."""
    row0, col0, rows, cols, W = tile
    lanes = []
    for lane in range(32):
        order = lane_order(spec, lane, W)
        digits = [digit_of(spec, split(spec, m[row0 + r, col0 + c])[0]) if r < rows and c < cols else None for r,
                  c in order]
        digits += [None] * (-len(digits) % spec.tuple)
        lanes.append([tuple(digits[i:i + spec.tuple]) for i in range(0, len(digits), spec.tuple)])
    return lanes


def make_lengths(spec, m, rng):
    """Code lengths from the data; `drop` tuples that occur are left without a code."""
    counts = {}
    for tile in tiles_of(spec):
        for lane in wanted_tuples(spec, m, tile):
            for t in lane:
                if all(d is not None and 0 <= d < spec.levels for d in t):
                    counts[t] = counts.get(t, 0) + 1
    order = sorted(counts, key=lambda t: (counts[t], t))
    for t in [t for t in order if t != spec.stand_ins()][:spec.drop]:
        del counts[t]
    everything = list(itertools.product(range(spec.levels), repeat=spec.tuple))
    rng.shuffle(everything)
    for t in everything[:spec.extra]:
        counts.setdefault(tuple(int(d) for d in t), 0.25)
    for t in everything:
        if len(counts) >= 2:
            break
        counts.setdefault(tuple(int(d) for d in t), 0.25)
    counts.setdefault(spec.stand_ins(), 0.25)  # it can stand for every other
    keep = sorted(counts, key=lambda t: (t != spec.stand_ins(), -counts[t], t))[:1 << spec.max_length]
    index = [sum(d * spec.levels ** n for n, d in enumerate(t)) for t in keep]
    lengths = [0] * spec.levels ** spec.tuple
    for i, l in zip(index, package_merge([counts[t] for t in keep], spec.max_length)):
        lengths[i] = l
    spec.max_length = max(lengths)
    return lengths


def choose(spec, want, coded, digits, lengths):
    """The coded tuple nearest to what is wanted: fewest corrections, then shortest code."""
    miss = np.zeros(len(coded), np.int64)
    for n, w in enumerate(want):
        if w is None:
            continue
        miss += digits[:, n] != w
        diff = w - digits[:, n]
        miss += 1000 * ((diff != 0) & (digits[:, n] != spec.stand_in))
        if spec.mode != LOSSLESS:
            miss += 1000 * ((diff > 127) | (diff < -128))
    best = int(np.argmin(miss * 100 + lengths))
    assert miss[best] < 1000, 'no code in reach of an outlier'
    return best


def encode_tile(spec, m, tile, codes, rng, path=None):
    row0, col0, rows, cols, W = tile
    coded = sorted(codes, key=lambda i: (codes[i][1], i))
    digits = np.array([spec.digits_of(i) for i in coded])
    lengths = np.array([codes[i][1] for i in coded])
    ladder = np.cumsum(2.0 ** -lengths)
    by_digits = {tuple(int(x) for x in d): n for n, d in enumerate(digits)}
    bits, lane_bits, fixes = [], [], []
    registers = W * spec.layout // 64
    per = 32 // spec.layout
    images = np.zeros((registers, 32), np.uint64)
    signs = np.zeros((registers, 32), np.uint64)
    element_mask = (1 << spec.layout) - 1
    raw_mask = 0
    for _, mask in spec.masks():
        raw_mask |= mask & element_mask
    for lane, wanted in enumerate(wanted_tuples(spec, m, tile)):
        order = lane_order(spec, lane, W)
        n = 0
        start = len(bits)
        for want in wanted:
            pick = by_digits.get(want)
            if pick is None:
                if all(w is None for w in want):
                    pick = 0 if spec.near_padding else int(np.searchsorted(ladder, rng.random(), side='right'))
                else:
                    pick = choose(spec, want, coded, digits, lengths)
            code, length = codes[coded[pick]]
            bits += [code >> (length - 1 - b) & 1 for b in range(length)]
            for x, w in enumerate(want):
                if n + x >= len(order):
                    continue
                r, c = order[n + x]
                if w is not None and w != digits[pick][x]:
                    v = correction(spec, split(spec, m[row0 + r, col0 + c])[0], int(digits[pick][x]))
                    fixes.append((r * W + c, v))
            n += spec.tuple
        lane_bits.append(len(bits) - start)
        for n, (r, c) in enumerate(order):
            inside = r < rows and c < cols
            raw = split(spec, m[row0 + r, col0 + c])[1] if inside else int(rng.integers(65536)) & raw_mask
            images[n // per, lane] |= np.uint64(raw << (n % per * spec.layout))
            if spec.fold:
                sign = int(m[row0 + r, col0 + c]) < 0 if inside else int(rng.integers(65536)) & 1
                signs[n // per, lane] |= np.uint64(sign << (4 * (n % per) + 2))
    planes = b''
    for p, mask in spec.masks():
        G = spec.layout // p
        words = -(-registers // G)
        sub = np.zeros(words * 32, np.uint64)
        for w in range(words):
            for lane in range(32):
                word = 0
                for j in range(G):
                    if w * G + j < registers:
                        x = int(images[w * G + j, lane]) & mask
                        word |= (x << (p * j) | x >> (32 - p * j)) & 0xFFFFFFFF
                sub[w * 32 + lane] = word
        planes += sub.astype('<u4').tobytes()
    if spec.trellis:
        planes += path.astype('<u4').tobytes()
    if spec.fold:
        words = -(-registers // 8)
        sub = np.zeros(words * 32, np.uint64)
        for i in range(registers):
            turn = i % 8 % 4 + 16 * (i % 8 // 4)
            for lane in range(32):
                x = int(signs[i, lane])
                sub[i // 8 * 32 + lane] |= np.uint64((x << turn | x >> (32 - turn)) & 0xFFFFFFFF)
        planes += sub.astype('<u4').tobytes()
    bits += [0] * (-len(bits) % 32)
    stream = np.packbits(np.array(bits, np.uint8), bitorder='little').tobytes()
    entries, position = [], -1
    for at, v in sorted(fixes):
        gap = at - position - 1
        while gap >= 255:
            k = 1 if spec.short_skips else min(gap // 255, 256)
            entries.append((255, k - 1))
            gap -= 255 * k
        entries.append((gap, v & 255))
        position = at
    base = min(lane_bits) // 2 if spec.wide else min(lane_bits)  # any base up to the smallest will do
    lanes = [x - base for x in lane_bits]
    return {'base': base, 'lanes': lanes, 'wide': spec.wide or max(lanes) > 255, 'planes': planes, 'codes': stream,
            'entries': entries, 'fixes': len(fixes), 'tail': None}


def front_bytes(parts):
    """What lies before the padding of a tile."""
    lanes = np.array(parts['lanes'], '<u2').tobytes() if parts['wide'] else bytes(parts['lanes'])
    return struct.pack('<HH', parts['base'] | parts['wide'] << 15, len(parts['entries'])) + lanes + parts['codes'] + \
        bytes(itertools.chain(*parts['entries']))


def tile_bytes(parts):
    front = front_bytes(parts)
    tail = bytes(-len(front) % 16) if parts['tail'] is None else parts['tail']  # a spoiled tile may have another
    data = front + tail + parts['planes']
    return data + bytes(-len(data) % 16)


def header_bytes(h):
    order = ('magic mode dtype layout tuple levels hi_min planes max_length tile_cols row_scale col_scale rows cols'
             ' scale table_bytes total_bytes tiles outliers fold stand_in trellis reserved').split()
    return struct.pack('<4sBBBBBBBBHBBIIfIQIIBBB13s', *(h[k] & 255 if k == 'hi_min' else h[k] for k in order))


def encode(spec, m, rng, hook=None):
    """-> blob, anatomy (byte positions of the parts). hook(name, value) may change a part before it is written."""
    hook = hook or (lambda name, value: value)
    spec.rows, spec.cols = m.shape
    h = {k: getattr(spec,
                    k) for k in 'mode dtype layout tuple levels hi_min planes max_length tile_cols rows cols fold '
         'stand_in trellis'.split()}
    h.update(magic=b'CLT1', reserved=bytes(13), row_scale=spec.row_scale, col_scale=spec.col_scale, scale=spec.scale)
    if spec.mode == RAW:
        for k in ('layout tuple levels hi_min planes max_length tile_cols row_scale col_scale scale table_bytes tiles '
                  'outliers fold stand_in trellis').split():
            h[k] = 0
        h['total_bytes'] = 64 + m.size * m.dtype.itemsize
        return header_bytes(hook('header', h)) + m.tobytes(), {}
    lengths = spec.lengths or make_lengths(spec, m, rng)
    h['max_length'] = spec.max_length
    lengths = hook('lengths', list(lengths))
    codes = canonical(lengths)
    at = {'table': 64}
    body = bytearray(64) + hook('table', pack_nibbles(hook('nibbles', table_nibbles(lengths, rng))))
    h['table_bytes'] = len(body) - 64

    def section(name, data, unit=4):
        pad = -len(body) % unit
        body.extend(hook('pad before ' + name, bytes(pad)))
        at[name] = len(body)
        body.extend(data)
    if spec.row_scale >= 2:
        section('row_scales', np.asarray(spec.row_values).astype('<u2' if spec.row_scale < 4 else '<f4').tobytes())
    if spec.col_scale:
        section('col_scales', np.asarray(spec.col_values).astype('<u2').tobytes())
    tiles, fixes = [], 0
    for n, tile in enumerate(tiles_of(spec)):
        parts = encode_tile(spec, m, tile, codes, rng, spec.paths[n] if spec.trellis else None)
        fixes += parts['fixes']
        parts = hook('tile %d' % n, parts)
        tiles.append(tile_bytes(parts))
        assert len(tiles[-1]) % 16 == 0
    offsets = [0]
    for t in tiles:
        offsets.append(offsets[-1] + len(t) // 16)
    section('offsets', np.array(hook('offsets', offsets), '<u4').tobytes())
    section('tiles', b''.join(tiles), 16)
    h.update(total_bytes=len(body), tiles=len(tiles), outliers=fixes)
    body[:64] = header_bytes(hook('header', h))
    return bytes(body), at


def scales(spec, rows, cols, rng):
    if spec.row_scale == 2:
        spec.row_values = f32_to_bf16(rng.uniform(0.01, 3, rows))
    elif spec.row_scale == 3:
        spec.row_values = rng.uniform(0.01, 3, rows).astype(np.float16).view(np.uint16)
    elif spec.row_scale == 4:
        spec.row_values = rng.uniform(0.01, 3, rows).astype(np.float32)
    if spec.col_scale:
        spec.col_values = f32_to_bf16(rng.uniform(0.5, 2, cols))
    if spec.odd_scales:  # 0, -0 and negative ones are scales like others
        spec.row_values[:3] = f32_to_bf16([0.0, -0.0, -1.5])
        spec.col_values[:3] = f32_to_bf16([-0.75, 0.0, -0.0])


def weights(spec, m):
    """1.9, in f32."""
    if spec.mode in (RAW, LOSSLESS):
        if spec.dtype == F32:
            return m
        return bf16_to_f32(m) if spec.dtype == BF16 else m.view(np.float16).astype(np.float32)
    if spec.row_scale == 1:
        step = np.full(spec.rows, spec.scale, np.float32)
    else:
        a = (bf16_to_f32(spec.row_values) if spec.row_scale == 2 else
             np.asarray(spec.row_values,
                        np.uint16).view(np.float16).astype(np.float32) if spec.row_scale == 3 else spec.row_values)
        step = a / np.float32(spec.scale)
    w = m.astype(np.float32) * step[:, None]
    return w * bf16_to_f32(spec.col_values)[None, :] if spec.col_scale else w


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def integers(rows, cols, spread, low, high, rng, wild=0.01):
    q = np.rint(rng.laplace(0, spread, (rows, cols)))
    far = rng.random((rows, cols)) < wild
    q = np.where(far, rng.integers(low, high + 1, (rows, cols)), q)
    return np.clip(q, low, high).astype(np.int32)


def floats(rows, cols, dtype, rng, wild=0.01):
    x = (rng.standard_normal((rows, cols)) * 0.05).astype(np.float32)
    bits = f32_to_bf16(x) if dtype == BF16 else x.astype(np.float16).view(np.uint16)
    far = rng.random((rows, cols)) < wild  # any pattern: NaN, infinity, subnormals
    return np.where(far, rng.integers(0, 65536, (rows, cols)), bits).astype(np.uint16)


def golden_list():
    """name, Spec, matrix; the generator of each is seeded by its name."""
    def item(name, shape, spread=0, wild=0.01, **kw):
        spec = Spec(**kw)
        rng = np.random.default_rng(fnv(name.encode()))
        if spec.mode == LOSSLESS:
            m = floats(*shape, spec.dtype, rng, wild)
        elif spec.mode == RAW:
            m = rng.standard_normal(shape).astype(np.float32)
            if spec.dtype != F32:
                m = f32_to_bf16(m) if spec.dtype == BF16 else m.astype(np.float16).view(np.uint16)
        else:
            low, high = (-127, 127) if spec.mode == INT8 else (-128, 127) if spec.layout == 8 else (-2048, 2047)
            m = integers(*shape, spread, low, high, rng, wild)
            if spec.trellis:
                follow_paths(spec, m, rng)
        if not spec.fold and spec.mode != RAW:  # any digit, where a correction can then say every hi
            spec.stand_in = -spec.hi_min if spec.planes in (0, spec.layout - 12) else fnv(name.encode()) % spec.levels
        spec.rows, spec.cols = shape
        scales(spec, *shape, rng)
        return name, spec, m, rng
    i8 = dict(mode=INT8, scale=127.0)
    yield item('raw-bf16', (3, 5), mode=RAW, dtype=BF16)
    yield item('raw-fp16', (1, 1), mode=RAW, dtype=FP16)
    yield item('raw-f32', (7, 4), mode=RAW, dtype=F32)
    yield item('int8-n2-r0', (16, 32), 3, **i8, row_scale=2, levels=32, hi_min=-16)
    yield item('int8-n2-r1', (17, 33), 8, **i8, row_scale=3, levels=32, hi_min=-16, planes=1, dtype=FP16)
    yield item('int8-n2-r2', (40, 200), 20, **i8, row_scale=2, levels=48, hi_min=-24, planes=2, extra=40)
    yield item('int8-n2-r3', (33, 300), 30, **i8, row_scale=4, levels=32, hi_min=-16, planes=3, dtype=F32,
               tile_cols=256)
    yield item('int8-n2-r4', (9, 1), 40, **i8, row_scale=2, levels=16, hi_min=-8, planes=4)
    yield item('int8-n3-r1', (20, 130), 9, **i8, row_scale=2, tuple=3, levels=16, hi_min=-8, planes=1, drop=30)
    yield item('int8-n3-r3', (5, 64), 25, **i8, row_scale=3, tuple=3, levels=8, hi_min=-4, planes=3, dtype=FP16)
    yield item('int8-n4-r3', (16, 160), 20, **i8, row_scale=2, tuple=4, levels=8, hi_min=-4, planes=3, drop=60)
    yield item('rd8-n2-r0-tensor', (31, 97), 2, row_scale=1, scale=0.03125, levels=13, hi_min=-6)
    yield item('rd8-n2-r2-cols', (18, 140), 12, row_scale=2, scale=7.5, col_scale=1, levels=20, hi_min=-10, planes=2)
    yield item('rd8-n2-levels64', (24, 128), 10, row_scale=1, scale=-0.5, levels=64, hi_min=-32, extra=600)
    yield item('rd8-scales-zero-negative', (6, 40), 3, row_scale=2, scale=2.0, col_scale=1, levels=20, hi_min=-10,
               odd_scales=True)
    yield item('rd8-n3-r0', (16, 257), 0.8, row_scale=3, scale=3.0, tuple=3, levels=5, hi_min=-2, wild=0.002,
               dtype=FP16)
    yield item('rd8-n3-r4', (3, 31), 20, row_scale=1, tuple=3, levels=16, hi_min=-8, planes=4)
    yield item('rd8-n3-full', (16, 96), 4, row_scale=1, tuple=3, levels=16, hi_min=-8, extra=4096)
    yield item('rd8-n4-r0', (35, 70), 0.6, row_scale=4, scale=1.0, col_scale=1, tuple=4, levels=8, hi_min=-4,
               wild=0.003)
    yield item('rd8-n4-r2-l5', (16, 128), 5, row_scale=1, tuple=4, levels=6, hi_min=-3, planes=2, max_length=5)
    yield item('rd8-n4-two', (2, 3), 0, row_scale=1, tuple=4, levels=2, hi_min=0, max_length=1, wild=0)
    yield item('rd8-wide', (13, 4100), 0.6, row_scale=1, tuple=4, levels=3, hi_min=-1, tile_cols=4096, wild=0.0002,
               max_length=8,
               extra=81)
    yield item('rd8-wide-skips', (2, 1024), 0.2, row_scale=2, scale=2.0, tuple=4, levels=3, hi_min=-1, tile_cols=1024,
               wild=0.002,
               short_skips=True)
    yield item('rd8-wide-lanes', (20, 140), 4, row_scale=1, levels=32, hi_min=-16, wide=True)
    yield item('rd8-ragged-lanes', (2, 1030), 5, row_scale=1, levels=32, hi_min=-16, tile_cols=1024, near_padding=True)
    fold = dict(tuple=4, levels=4, hi_min=0, fold=1)
    yield item('rd8-fold-r0', (18, 170), 1.2, row_scale=1, **fold, wild=0.004, max_length=9)
    yield item('rd8-fold-r1', (33, 97), 3, row_scale=2, scale=2.0, **fold, planes=1, col_scale=1, drop=20)
    yield item('rd8-fold-r2', (16, 260), 6, row_scale=3, scale=1.5, **fold, planes=2, tile_cols=256, dtype=FP16,
               extra=256)
    yield item('rd8-fold-two', (3, 5), 0, row_scale=1, **fold, max_length=1, wild=0)
    yield item('rd8-fold-wide', (5, 1100), 5, row_scale=1, **fold, planes=2, tile_cols=1024, near_padding=True)
    yield item('int8-fold-r3', (20, 33), 15, **i8, row_scale=4, **fold, planes=3, dtype=F32, wild=0.05, drop=40)
    yield item('int8-fold-r4', (9, 300), 25, **i8, row_scale=2, **fold, planes=4, wide=True)
    yield item('int8-fold-r5', (17, 140), 40, **i8, row_scale=2, **fold, planes=5)
    yield item('rd16-r4', (17, 65), 60, row_scale=1, layout=16, levels=40, hi_min=-20, planes=4, wild=0.004)
    yield item('rd16-r5', (16, 48), 150, row_scale=2, scale=1.5, layout=16, levels=32, hi_min=-16, planes=5,
               col_scale=1)
    yield item('rd16-r6', (30, 129), 200, row_scale=3, scale=0.5, layout=16, levels=20, hi_min=-10, planes=6,
               dtype=FP16)
    yield item('rd16-r7', (4, 200), 300, row_scale=4, scale=1e-3, layout=16, levels=16, hi_min=-8, planes=7, dtype=F32)
    yield item('rd16-r8', (19, 31), 500, row_scale=1, layout=16, levels=15, hi_min=-8, planes=8, drop=5)
    # a trellis; last tiles whose width is an odd multiple of 32 have bits of the path that belong to no register
    path = dict(trellis=1)
    yield item('rd8-trellis-n2-r1', (33, 97), 12, row_scale=1, levels=24, hi_min=-12, planes=1, **path)
    yield item('rd8-trellis-n3-r1', (18, 31), 6, row_scale=2, scale=2.5, tuple=3, levels=8, hi_min=-4, planes=1,
               **path, drop=20)
    yield item('rd8-trellis-n4-r1', (16, 160), 5, row_scale=4, scale=1.0, tuple=4, levels=6, hi_min=-3, planes=1,
               col_scale=1, dtype=F32, **path, extra=200)
    yield item('rd8-trellis-n2-r2', (40, 700), 16, row_scale=2, scale=7.5, levels=32, hi_min=-16, planes=2,
               tile_cols=256, col_scale=1, **path, wild=0.004)
    yield item('rd8-trellis-n3-r2', (17, 33), 20, row_scale=1, scale=-0.125, tuple=3, levels=16, hi_min=-8, planes=2,
               **path)
    yield item('rd8-trellis-n4-r2', (5, 1050), 12, row_scale=3, scale=1.5, tuple=4, levels=8, hi_min=-4, planes=2,
               tile_cols=1024, dtype=FP16, **path, near_padding=True)
    yield item('rd8-trellis-n2-r3', (20, 130), 40, row_scale=1, levels=16, hi_min=-8, planes=3, **path, wide=True)
    yield item('rd8-trellis-n3-r3', (1, 1), 30, row_scale=1, tuple=3, levels=6, hi_min=-3, planes=3, **path)
    yield item('rd8-trellis-n4-r3', (19, 96), 25, row_scale=2, scale=3.0, tuple=4, levels=4, hi_min=-2, planes=3,
               **path, wild=0.03, drop=9)
    yield item('rd8-trellis-n2-r4', (31, 289), 40, row_scale=1, levels=8, hi_min=-4, planes=4, **path, extra=64)
    yield item('rd8-trellis-n3-r4', (16, 224), 25, row_scale=1, tuple=3, levels=3, hi_min=-1, planes=4, **path,
               wild=0.03)
    yield item('rd8-trellis-n4-r4', (34, 65), 30, row_scale=1, tuple=4, levels=2, hi_min=-1, planes=4, **path,
               max_length=4)
    yield item('rd8-trellis-wide-skips', (2, 1024), 1.5, row_scale=2, scale=2.0, tuple=4, levels=3, hi_min=-1, planes=1,
               tile_cols=1024, **path, wild=0.002, short_skips=True)
    yield item('rd8-trellis-fold-r1', (33, 97), 6, row_scale=2, scale=2.0, **fold, planes=1, col_scale=1, **path,
               drop=20)
    yield item('rd8-trellis-fold-r2', (16, 260), 12, row_scale=3, scale=1.5, **fold, planes=2, tile_cols=256,
               dtype=FP16, **path, extra=256)
    yield item('rd8-trellis-fold-r3', (5, 1100), 20, row_scale=1, **fold, planes=3, tile_cols=1024, **path,
               near_padding=True)
    yield item('rd8-trellis-fold-r4', (17, 33), 40, row_scale=1, **fold, planes=4, **path, wide=True)
    yield item('rd16-trellis-r4', (17, 65), 120, row_scale=1, layout=16, levels=40, hi_min=-20, planes=4, **path,
               wild=0.004)
    yield item('rd16-trellis-r5', (16, 48), 300, row_scale=2, scale=1.5, layout=16, levels=32, hi_min=-16, planes=5,
               col_scale=1, **path)
    yield item('rd16-trellis-r6', (30, 300), 400, row_scale=3, scale=0.5, layout=16, levels=20, hi_min=-8, planes=6,
               dtype=FP16, tile_cols=256, **path, wild=0.02)
    yield item('rd16-trellis-r7', (4, 200), 600, row_scale=4, scale=1e-3, layout=16, levels=12, hi_min=-5, planes=7,
               dtype=F32, **path)
    yield item('rd16-trellis-r8', (19, 31), 800, row_scale=1, layout=16, levels=7, hi_min=-4, planes=8, **path, drop=5)
    far = dict(mode=LOSSLESS, row_scale=0, scale=0.0, layout=16)
    yield item('bf16', (33, 100), dtype=BF16, **far, levels=12, hi_min=114, planes=8)
    yield item('bf16-wrap', (16, 40), dtype=BF16, **far, levels=60, hi_min=250, planes=8, wild=1.0, extra=3000)
    yield item('bf16-wide', (5, 700), dtype=BF16, **far, levels=8, hi_min=118, planes=8, tile_cols=512, wild=0.003,
               drop=4)
    yield item('fp16', (18, 150), dtype=FP16, **far, levels=10, hi_min=3, planes=11)
    yield item('bf16-wide-lanes', (7, 64), dtype=BF16, **far, levels=12, hi_min=114, planes=8, wide=True)
    yield item('fp16-wrap', (16, 32), dtype=FP16, **far, levels=33, hi_min=31, planes=11, wild=1.0)


def worked_example():
    spec = Spec(row_scale=2, scale=4.0, planes=1, levels=3, hi_min=-1, tuple=2, stand_in=1)
    spec.row_values = f32_to_bf16([0.5, 3.0])
    q = np.array([[0, 1, -2, 3, 2, 0, 1, 0], [-1, 0, 1, 1, 0, 0, -9, 1]], np.int32)
    # indices d0 + 3 d1; digit 1 is hi 0. Index 4 = (1, 1) is "both hi are zero"
    spec.lengths = [0, 3, 0, 4, 1, 3, 0, 3, 4]
    spec.max_length = 4

    class Still:  # no random choices: padding is the shortest code and zero bits, runs are used whenever possible
        def integers(self, n):
            return 0 if n == 65536 else 3 - 1

        def random(self):
            return 0.0
    spec.rows, spec.cols = q.shape
    return spec, q, Still()


def write_valid(folder):
    """Writes NAME.blob and NAME.elem of every valid vector; returns what the index says of each."""
    os.makedirs(folder, exist_ok=True)
    entries = []
    for name, spec, m, rng in itertools.chain(golden_list(), [('worked-example', *worked_example())]):
        blob, _ = encode(spec, m, rng)
        w = np.array(weights(spec, m), '<f4')
        w.view('<u4')[np.isnan(w)] = 0x7FC00000  # which NaN it is depends on the machine
        open(os.path.join(folder, name + '.blob'), 'wb').write(blob)
        kind = 'u2' if spec.mode == LOSSLESS or spec.mode == RAW and spec.dtype != F32 else 'f4' if spec.mode == RAW else \
            'i2' if spec.layout == 16 else 'i1'
        open(os.path.join(folder, name + '.elem'), 'wb').write(m.astype('<' + kind).tobytes())
        entries.append({'file': 'valid/%s.blob' % name, 'mode': ('raw', 'int8', 'rd', 'lossless')[spec.mode],
                        'dtype': ('', 'BF16', 'FP16', 'F32')[spec.dtype],
                        'layout': spec.layout if spec.mode != RAW else 0, 'fold': spec.fold, 'trellis': spec.trellis,
                        'rows': spec.rows, 'cols': spec.cols, 'elements': 'valid/%s.elem' % name,
                        'elements_type': {'i1': 'i8', 'i2': 'i16', 'u2': 'u16', 'f4': 'f32'}[kind],
                        'weights_fnv1a64': '%016x' % fnv(w.tobytes())})
    return entries


def print_worked():
    """The annotated bytes of FORMAT.md 1.10."""
    spec, q, rng = worked_example()
    blob, at = encode(spec, q, rng)
    tile = at['tiles']
    codes, planes = tile + 36, tile + 80
    notes = {0: '"CLT1"', 4: 'rd, BF16, layout 8, tuples of 2', 8: '3 levels, hi_min -1, 1 raw bit, longest code 4',
             12: 'tile_cols 128', 14: 'row scales BF16, no column multipliers', 16: 'rows 2', 20: 'cols 8',
             24: 'scale 4.0: the divisor', 28: 'table_bytes 5', 32: 'total_bytes 304', 40: 'tiles 1',
             44: 'outliers 2', 48: 'not folded', 49: 'stand-in: digit 1, hi 0', 50: 'no trellis', 51: 'reserved', 64: 'lengths 0 3 0 4 1 3 0 3 4, spare nibble', 69: 'padding',
             72: 'row scales 0.5 and 3.0', 76: 'tile offsets 0 and 13: 208 bytes', 84: 'padding',
             tile: 'base length 8', tile + 2: 'outlier entries 2', tile + 4: 'lanes 0 to 15: 10, 10, 8, 8, 11, 8, ... bits',
             tile + 20: 'lanes 16 to 31: 8 bits each', planes: 'sub-plane of 1 bit: words of lanes 0 to 3',
             planes + 16: 'lanes 4 to 7', planes + 32: 'lanes 8 to 11', planes + 48: 'lanes 12 to 15',
             planes + 64: 'lanes 16 to 19', planes + 80: 'lanes 20 to 23', planes + 96: 'lanes 24 to 27',
             planes + 112: 'lanes 28 to 31', codes: '263 code bits', codes + 16: '', codes + 32: '',
             codes + 36: 'outliers (2, -1) and (35, -5)', codes + 40: 'padding'}
    starts = sorted(notes) + [len(blob)]
    for start, end in zip(starts, starts[1:]):
        print(('    %04x: %-47s  %s' % (start, blob[start:end].hex(' '), notes[start])).rstrip())


if __name__ == '__main__':
    print_worked()
