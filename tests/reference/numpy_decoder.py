"""A decoder of version-1 tensor blobs in NumPy, written from docs/FORMAT.md alone (1.6 by whole words): all lanes of all tiles side by side.
It believes what it reads: refusing bad blobs is what reference_decoder.c does."""
import struct

import numpy as np

RAW, INT8, RD, LOSSLESS = range(4)
BF16, FP16, F32 = 1, 2, 3
STORED = {BF16: '<u2', FP16: '<f2', F32: '<f4'}


def align(x, a):
    return -(-x // a) * a


def rotr(words, n):
    n %= 32
    return words if n == 0 else words >> np.uint32(n) | words << np.uint32(32 - n)


def numbers(data, dtype):
    """Values of the source as f32."""
    values = np.frombuffer(data, STORED[dtype])
    return (values.astype('<u4') << 16).view('<f4') if dtype == BF16 else values.astype(np.float32)


class Blob:
    """Header and sections (1.2, 1.3)."""

    def __init__(self, data):
        assert data[:4] == b'CLT1'
        (self.mode, self.dtype, self.layout, self.tuple, self.levels, self.hi_min, self.planes, self.max_length, self.tile_cols,
         self.row_scale, self.col_scale, self.rows, self.cols, self.scale, table_bytes, self.total_bytes, self.tiles, self.outliers,
         self.fold, self.stand_in, self.trellis) = struct.unpack_from('<8BH2B2IfIQ2I3B', data, 4)
        assert not any(data[51:64])
        self.data = bytes(data[:self.total_bytes])
        if self.mode == RAW:
            return
        if self.mode != LOSSLESS and self.hi_min > 127:
            self.hi_min -= 256
        self.table = self.data[64:64 + table_bytes]
        at = align(64 + table_bytes, 4)
        size = {2: 2, 3: 2, 4: 4}.get(self.row_scale, 0) * self.rows
        self.row_values = numbers(self.data[at:at + size], self.row_scale - 1) if size else None
        at = align(at + size, 4)
        size = 2 * self.cols if self.col_scale else 0
        self.col_values = numbers(self.data[at:at + size], BF16) if size else None
        at = align(at + size, 4)
        offsets = np.frombuffer(self.data, '<u4', self.tiles + 1, at).astype(np.int64)
        self.ends = align(at + 4 * len(offsets), 16) + 16 * offsets
        self.column_blocks = -(-self.cols // self.tile_cols)
        self.low_bits = self.planes + self.trellis

    def steps(self):
        return np.full(self.rows, self.scale, np.float32) if self.row_scale == 1 else self.row_values / np.float32(self.scale)


def code_lengths(blob):
    """1.4"""
    nibbles = iter([n for byte in blob.table for n in (byte & 15, byte >> 4)])
    lengths = []
    while len(lengths) < blob.levels ** blob.tuple:
        n = next(nibbles)
        if n == 13:
            lengths += [lengths[-1]] * (next(nibbles) + 3)
        elif n == 14:
            lengths += [0] * (next(nibbles) + 3)
        elif n == 15:
            lengths += [0] * (next(nibbles) + 16 * next(nibbles) + 19)
        else:
            lengths.append(n)
    return lengths


def look_up_tables(blob):
    """The index and the code length that each max_length next bits of a lane begin with."""
    index, length = np.zeros(1 << blob.max_length, np.int64), np.zeros(1 << blob.max_length, np.int64)
    code = last = 0
    for n, i in sorted((n, i) for i, n in enumerate(code_lengths(blob)) if n):
        code <<= n - last
        first = int(format(code, '0%db' % n)[::-1], 2)  # the first bit lies lowest
        index[first::1 << n], length[first::1 << n] = i, n
        code, last = code + 1, n
    return index, length


def sub_planes(blob):
    """(bits, mask) in the order stored, without the path and the signs (1.6)."""
    if blob.mode == LOSSLESS:
        return [(8, 0x807F807F)] if blob.dtype == BF16 else [(8, 0x807F807F), (2, 0x01800180), (1, 0x02000200)]
    stored, below, out = blob.planes - blob.trellis, 2 if blob.trellis else 0, []
    for p in (8, 4, 2, 1):
        if stored & p:
            field = ((1 << p) - 1) << below
            out.append((p, sum(field << b for b in range(0, 32, blob.layout))))
            below += p
    return out


class Words:
    """The raw bits of tiles, u32 words from the first plane on: [tile, word of a lane, lane]."""

    def __init__(self, planes):
        self.planes, self.at = planes, 0

    def take(self, n):
        self.at += n
        return self.planes[:, self.at - n:self.at]


def low_parts(blob, words, registers):
    """The finished low bits as [tile, register, lane] images."""
    image = np.zeros((len(words.planes), registers, 32), np.uint32)
    for p, mask in sub_planes(blob):
        group = blob.layout // p
        word = words.take(-(-registers // group))
        for r in range(registers):
            image[:, r] |= rotr(word[:, r // group], p * (r % group)) & np.uint32(mask)
    if blob.trellis:
        group, mask = blob.layout, np.uint32(0x01010101 if blob.layout == 8 else 0x00010001)
        a = words.take(-(-registers // group))
        b = np.zeros_like(a)
        b[:, 1:] = a[:, :-1]
        p = a ^ (a << np.uint32(1) | b >> np.uint32(31)) ^ (a << np.uint32(3) | b >> np.uint32(29))
        s = a << np.uint32(2) | b >> np.uint32(30)
        for r in range(registers):
            image[:, r] |= (rotr(p[:, r // group], r % group) & mask) << np.uint32(1) | rotr(s[:, r // group], r % group) & mask
    return image


def signs(words, registers):
    """Of folded integers: 4 times the sign of element b in nibble b."""
    word = words.take(-(-registers // 8))
    turned = [rotr(word[:, r // 8], r % 8 % 4 + 16 * (r % 8 // 4)) & np.uint32(0x4444) for r in range(registers)]
    return np.stack(turned, 1)


def places(blob, W):
    """Row and column in the tile of each element of each lane: [lane, element] (1.5)."""
    per = 32 // blob.layout
    e, lane = np.arange(W // 2)[None], np.arange(32)[:, None]
    register, b = e // per, e % per
    k, i, g, t = register // 4, register % 4, lane // 4, lane % 4
    column = 32 * k + 4 * t + 16 * (i // 2) + b if blob.layout == 8 else 16 * k + 2 * t + 8 * (i // 2) + b
    return g + 8 * (i % 2), column


def digits_of(blob, tiles, W, tables):
    """Digits of some tiles of one width: [tile, lane, element]; where their outliers and their planes begin."""
    data = np.frombuffer(blob.data + bytes(8), np.uint8).astype(np.int64)
    begin, end, lists, planes = [], [], [], []
    for tile in tiles:
        at = int(blob.ends[tile])
        base, entries = struct.unpack_from('<2H', blob.data, at)
        wide = base >> 15
        lengths = np.frombuffer(blob.data, '<u2' if wide else 'u1', 32, at + 4).astype(np.int64) + (base & 0x7FFF)
        stop = np.cumsum(lengths)
        codes = at + 4 + (64 if wide else 32)
        begin.append(8 * codes + stop - lengths)
        end.append(8 * codes + stop)
        lists.append((codes + 4 * (-(-int(stop[-1]) // 32)), entries))
        planes.append(at + align(lists[-1][0] + 2 * entries - at, 16))
    position, end = np.stack(begin), np.stack(end)
    tuples = -(-(W // 2) // blob.tuple)
    out = np.zeros((len(begin), 32, tuples * blob.tuple), np.int64)
    for n in range(tuples):
        byte = position >> 3
        window = data[byte] | data[byte + 1] << 8 | data[byte + 2] << 16
        bits = window >> (position & 7) & ((1 << blob.max_length) - 1)
        index = tables[0][bits]
        position += tables[1][bits]
        for d in range(blob.tuple):
            out[:, :, n * blob.tuple + d] = index // blob.levels ** d % blob.levels
    assert (position == end).all(), 'a lane has another length than its codes'
    return out[:, :, :W // 2], lists, planes


def corrections(blob, at, entries):
    """(position in the tile, what is added to hi) of an outlier list (1.8)."""
    position = -1
    for a, v in struct.iter_unpack('<Bb', blob.data[at:at + 2 * entries]):
        if a == 255:
            position += 255 * ((v & 255) + 1)
        else:
            position += a + 1
            yield position, v


def tiles_of_width(blob, tiles, W, tables):
    """Elements of some tiles: [tile, row, column]."""
    digits, lists, planes = digits_of(blob, tiles, W, tables)
    registers, per = W * blob.layout // 64, 32 // blob.layout
    words = Words(np.stack([np.frombuffer(blob.data[p:int(blob.ends[t + 1])], '<u4').reshape(-1, 32) for p, t in zip(planes, tiles)]))
    image = low_parts(blob, words, registers)

    def elements(images, width, mask):  # [tile, register, lane] -> [tile, lane, element]
        parts = [images >> np.uint32(b * width) & np.uint32(mask) for b in range(per)]
        return np.stack(parts, 2).reshape(len(tiles), W // 2, 32).transpose(0, 2, 1).astype(np.int64)
    low = elements(image, blob.layout, (1 << blob.layout) - 1)
    hi = digits + blob.hi_min
    if blob.fold:
        hi = np.where(elements(signs(words, registers), 4, 4) != 0, ~digits, digits)
    assert words.at == words.planes.shape[1], 'planes of another size'
    rows, columns = places(blob, W)
    tall, tile_low = np.zeros((len(tiles), 16, W), np.int64), np.zeros((len(tiles), 16, W), np.int64)
    tall[:, rows, columns], tile_low[:, rows, columns] = hi, low
    for n, (at, entries) in enumerate(lists):
        for position, v in corrections(blob, at, entries):
            tall[n, position // W, position % W] += v
    if blob.mode == LOSSLESS:
        return tile_low | (tall % 256 << 7 if blob.dtype == BF16 else tall % 32 << 10)
    return tall * 2 ** blob.low_bits + tile_low


def decode(data):
    """-> elements (integers, or the bits of BF16 and FP16; of mode raw the source's), weights as f32."""
    blob = Blob(data)
    shape = blob.rows, blob.cols
    if blob.mode == RAW:
        values = blob.data[64:]
        bits = np.frombuffer(values, '<f4' if blob.dtype == F32 else '<u2').reshape(shape)
        return bits, numbers(values, blob.dtype).reshape(shape)
    tables, out = look_up_tables(blob), np.zeros((align(blob.rows, 16), align(blob.cols, 32)), np.int64)
    for cb in range(blob.column_blocks):
        first = cb * blob.tile_cols
        W = min(blob.tile_cols, align(blob.cols - first, 32))
        found = tiles_of_width(blob, range(cb, blob.tiles, blob.column_blocks), W, tables)
        out[:, first:first + W] = found.reshape(-1, W)
    out = out[:blob.rows, :blob.cols]
    if blob.mode == LOSSLESS:
        bits = out.astype('<u2')
        return bits, numbers(bits.tobytes(), blob.dtype).reshape(shape)
    weights = out.astype(np.float32) * blob.steps()[:, None]
    if blob.col_scale:
        weights = weights * blob.col_values[None]
    return out.astype('<i1' if blob.layout == 8 else '<i2'), weights
