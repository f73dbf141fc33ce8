"""For every rule of docs/FORMAT.md part 1 a blob that breaks that rule and, as far as possible, no other; for
make_vectors.py."""
import os
import struct
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import reference_encoder as ref  # noqa: E402

FIELDS = {'magic': (0, 4), 'mode': (4, 1), 'dtype': (5, 1), 'layout': (6, 1), 'tuple': (7, 1), 'levels': (8, 1),
          'hi_min': (9, 1),
          'planes': (10, 1), 'max_length': (11, 1), 'tile_cols': (12, 2), 'row_scale': (14, 1), 'col_scale': (15,
              1), 'rows': (16, 4),
          'cols': (20, 4), 'scale': (24, 4), 'table_bytes': (28, 4), 'total_bytes': (32, 8), 'tiles': (40,
              4), 'outliers': (44, 4), 'fold': (48, 1), 'stand_in': (49, 1), 'trellis': (50, 1)}


def base(kind, rng):
    """A small valid Spec and matrix of each kind."""
    if kind == 'raw':
        return ref.Spec(mode=ref.RAW), rng.integers(0, 65536, (3, 4)).astype(np.uint16)
    if kind in ('bf16', 'fp16'):
        dtype, hi, planes = (ref.BF16, 114, 8) if kind == 'bf16' else (ref.FP16, 5, 11)
        spec = ref.Spec(mode=ref.LOSSLESS, dtype=dtype, layout=16, hi_min=hi, planes=planes, levels=8, row_scale=0,
                        scale=0.0, stand_in=5)
        return spec, ref.floats(5, 30, dtype, rng, 0.03)
    if kind == 'int8':
        spec = ref.Spec(mode=ref.INT8, scale=127.0, row_scale=2, levels=16, hi_min=-8, planes=1, stand_in=8)
        m = ref.integers(5, 30, 4, -127, 127, rng, 0.03)
        ref.scales(spec, 5, 30, rng)
        return spec, m
    spec = {'rd8': ref.Spec(levels=8, hi_min=-4, planes=1), 'rd3': ref.Spec(levels=5, hi_min=-2, tuple=3),
            'rd4': ref.Spec(levels=4, hi_min=-2, tuple=4), 'cols': ref.Spec(levels=8, hi_min=-4, row_scale=3,
                                                                            scale=2.0, col_scale=1),
            'rd16': ref.Spec(levels=8, hi_min=-4, layout=16, planes=5),
            'fold': ref.Spec(levels=4, hi_min=0, tuple=4, planes=1, fold=1),
            'trellis': ref.Spec(levels=8, hi_min=-4, planes=2, trellis=1),
            'trellis16': ref.Spec(levels=8, hi_min=-4, layout=16, planes=5, trellis=1),
            'trellis-fold': ref.Spec(levels=4, hi_min=0, tuple=4, planes=1, fold=1, trellis=1)}[kind]
    spec.stand_in = -spec.hi_min
    rows, cols = (37, 139) if kind == 'cols' else (5, 30)
    spec.tile_cols = 128
    spread = (40 if spec.layout == 16 else 2) * (1 + 2 * spec.trellis)
    m = ref.integers(rows, cols, spread, *((-2048, 2047) if spec.layout == 16 else (-128, 127)), rng, 0.03)
    if spec.trellis:
        ref.follow_paths(spec, m, rng)
    ref.scales(spec, rows, cols, rng)
    return spec, m


def build(kind, hook=None, change=None, **kw):
    """A blob of a kind; hook as in ref.encode; kw changes the Spec; change(blob, anatomy) edits the finished bytes."""
    rng = np.random.default_rng(7)
    spec, m = base(kind, rng)
    for k, v in kw.items():
        setattr(spec, k, v)
    blob, at = ref.encode(spec, m, rng, hook)
    if change:
        blob = bytearray(blob)
        blob = bytes(change(blob, at) or blob)
    return blob


def hook_of(**parts):
    """hook_of(nibbles=f): a hook that changes one part; '_' in a name stands for a space."""
    def hook(name, value):
        f = parts.get(name.replace(' ', '_'))
        return f(value) if f else value
    return hook


def field(kind, name, value, at=None):
    """One header field changed; the error is at the field unless said otherwise."""
    first, size = FIELDS[name]

    def set_header(h):
        h[name] = value
        return h
    where = (first, first + size - 1) if at is None else at
    return build(kind, hook_of(header=set_header)), where


def plus(kind, name, delta, at=None):
    box = {}

    def see(h):
        box['v'] = h[name]
        return h
    build(kind, hook_of(header=see))
    return field(kind, name, box['v'] + delta, at)


ANY = (0, 0)


def header_cases():
    yield 'magic', field('rd8', 'magic', b'CLT2')
    yield 'mode-4', field('rd8', 'mode', 4)
    for v in (0, 4, 255):
        yield 'dtype-%d' % v, field('rd8', 'dtype', v)
    yield 'lossless-f32', field('bf16', 'dtype', 3)
    for kind, v in (('rd8', 0), ('rd8', 12), ('rd8', 32), ('int8', 16), ('bf16', 8)):
        yield 'layout-%s-%d' % (kind, v), field(kind, 'layout', v, ANY)
    for kind, v in (('rd8', 0), ('rd8', 1), ('rd8', 5), ('rd16', 3), ('rd16', 4), ('bf16', 1), ('fp16', 4)):
        yield 'tuple-%s-%d' % (kind, v), field(kind, 'tuple', v)
    for kind, v in (('rd8', 0), ('rd8', 1), ('rd8', 65), ('rd3', 17), ('rd4', 9)):
        yield 'levels-%s-%d' % (kind, v), field(kind, 'levels', v, ANY if v in (17, 9) else None)
    yield 'alphabet-low', field('rd8', 'hi_min', -65)
    yield 'alphabet-high', field('rd8', 'hi_min', 57)
    yield 'alphabet16-high', field('rd16', 'hi_min', 57)
    yield 'alphabet16-low', field('rd16', 'hi_min', -65)
    yield 'fp16-hi-min-32', field('fp16', 'hi_min', 32)
    for kind, v in (('rd8', 5), ('rd16', 3), ('rd16', 9), ('bf16', 7), ('bf16', 11), ('fp16', 8), ('fp16', 12),
                    ('fold', 6)):
        yield 'planes-%s-%d' % (kind, v), field(kind, 'planes', v)
    yield 'fold-2', field('fold', 'fold', 2)
    yield 'fold-255', field('fold', 'fold', 255)
    yield 'fold-missing', field('fold', 'fold', 0, ANY)
    yield 'fold-rd8', field('rd8', 'fold', 1, ANY)
    for kind in ('rd16', 'bf16', 'fp16'):
        yield 'fold-' + kind, field(kind, 'fold', 1)
    for kind in ('trellis', 'trellis16', 'rd8', 'raw'):
        for v in (2, 255):
            yield '%s-trellis-%d' % (kind, v), field(kind, 'trellis', v)
    for kind in ('int8', 'bf16', 'fp16'):
        yield 'trellis-of-' + kind, field(kind, 'trellis', 1)
    yield 'trellis-planes-0', field('trellis', 'planes', 0)
    yield 'trellis-fold-planes-0', field('trellis-fold', 'planes', 0)
    yield 'trellis-rd3', field('rd3', 'trellis', 1, FIELDS['planes'][:1] * 2)  # which has no planes
    yield 'trellis16-planes-3', field('trellis16', 'planes', 3)
    yield 'trellis-planes-5', field('trellis', 'planes', 5)
    yield 'trellis-missing', field('trellis', 'trellis', 0, ANY)
    # what the bit more leaves of the alphabet's range: all of these are good without a trellis
    for kind, low, high in (('trellis', -17, 9), ('trellis16', -33, 25)):
        yield kind + '-alphabet-low', field(kind, 'hi_min', low)
        yield kind + '-alphabet-high', field(kind, 'hi_min', high)
    yield 'trellis-fold-alphabet', field('trellis-fold', 'planes', 5, FIELDS['hi_min'][:1] * 2)
    for v in (2, 3):
        yield 'fold-tuple-%d' % v, field('fold', 'tuple', v)
    for v in (2, 3, 5, 8):
        yield 'fold-levels-%d' % v, field('fold', 'levels', v)
    for kind, v in (('fold', 1), ('fold', 4), ('rd8', 8), ('rd3', 5), ('rd16', 255), ('bf16', 8), ('int8', 16)):
        yield 'stand-in-%s-%d' % (kind, v), field(kind, 'stand_in', v)
    for kind in ('rd8', 'rd3', 'rd4', 'rd16', 'int8', 'bf16', 'fp16', 'trellis', 'trellis16'):
        yield 'stand-in-other-' + kind, plus(kind, 'stand_in', -1, ANY)
    for v in (-4, -1, 1):
        yield 'fold-hi-min-%d' % v, field('fold', 'hi_min', v)
    yield 'max-length-0', field('rd8', 'max_length', 0)
    yield 'max-length-13', field('rd8', 'max_length', 13)
    for v in (0, 64, 100, 192, 4224, 65535):
        yield 'tile-cols-%d' % v, field('rd8', 'tile_cols', v)
    for kind, v in (('rd8', 0), ('rd8', 5), ('int8', 0), ('int8', 1), ('int8', 5), ('bf16', 1), ('bf16', 2)):
        yield 'row-scale-%s-%d' % (kind, v), field(kind, 'row_scale', v)
    for kind, v in (('rd8', 2), ('int8', 1), ('fp16', 1)):
        yield 'col-scale-%s-%d' % (kind, v), field(kind, 'col_scale', v)
    yield 'rows-0', field('rd8', 'rows', 0)
    yield 'cols-0', field('rd8', 'cols', 0)
    yield 'rows-17', field('rd8', 'rows', 17, ANY)
    yield 'cols-129', field('rd8', 'cols', 129, ANY)
    yield 'rows-huge', field('rd8', 'rows', 0xFFFFFFFF, ANY)
    yield 'sizes-huge', (build('rd8', hook_of(header=lambda h: {**h, 'rows': 0xFFFFFFFF, 'cols': 0xFFFFFFFF})), ANY)
    for kind, v in (('rd8', float('nan')), ('rd8', float('inf')), ('cols', float('-inf')), ('cols', 0.0), ('cols',
                                                                                                           -1.0),
                    ('int8', 126.0), ('bf16', 1.0)):
        yield 'scale-%s-%s' % (kind, v), field(kind, 'scale', v)
    yield 'table-bytes-less', plus('rd8', 'table_bytes', -4, ANY)
    yield 'table-bytes-more', plus('rd8', 'table_bytes', 4, ANY)
    yield 'table-bytes-huge', field('rd8', 'table_bytes', 0xFFFFFFFF, ANY)
    for n in (4, 16):
        yield 'total-bytes-less-%d' % n, plus('rd8', 'total_bytes', -n, ANY)
        yield 'total-bytes-more-%d' % n, plus('rd8', 'total_bytes', n, ANY)
    yield 'total-bytes-huge', field('rd8', 'total_bytes', 2 ** 64 - 16, ANY)
    yield 'tiles-less', plus('cols', 'tiles', -1, ANY)
    yield 'tiles-more', plus('cols', 'tiles', 1, ANY)
    for kind in ('rd8', 'rd3', 'rd4', 'rd16', 'int8', 'fold', 'bf16', 'fp16', 'cols', 'trellis', 'trellis16'):
        yield 'outliers-less-' + kind, plus(kind, 'outliers', -1, (44, 47))
        yield 'outliers-more-' + kind, plus(kind, 'outliers', 1, (44, 47))
    yield 'outliers-huge', field('cols', 'outliers', 0xFFFFFFFF, (44, 47))
    for n in range(13):
        r = bytes(1 if i == n else 0 for i in range(13))
        yield 'reserved-%d' % n, (build('rd8', hook_of(header=lambda h, r=r: {**h, 'reserved': r})), (51 + n, 51 + n))
    yield 'raw-reserved', (build('raw', hook_of(header=lambda h: {**h, 'reserved': b'\1' * 13})), (51, 63))
    for name in ('layout tuple levels hi_min planes max_length tile_cols row_scale col_scale table_bytes tiles '
                 'outliers fold stand_in trellis').split():
        yield 'raw-' + name.replace('_', '-'), field('raw', name, 1)
    yield 'raw-scale', field('raw', 'scale', 1.0)
    yield 'raw-total-less', plus('raw', 'total_bytes', -1, ANY)
    yield 'raw-total-more', plus('raw', 'total_bytes', 1, ANY)
    yield 'raw-total-zero', field('raw', 'total_bytes', 0, ANY)
    yield 'raw-rows-huge', (build('raw', hook_of(header=lambda h: {**h, 'rows': 1 << 31, 'cols': 1 << 31, 'dtype': 3,
                                                                   'total_bytes': 64})), ANY)


def lengths_of(*used):
    """A table of 64 lengths (rd8: levels 8, tuples of 2): used = (index, length)..."""
    out = [0] * 64
    for i, l in used:
        out[i] = l
    return out


def table_cases():
    def table(nibbles, at=ANY, max_length=None):
        def header(h):
            return {**h, 'max_length': max_length or h['max_length']}
        return build('rd8', hook_of(nibbles=nibbles, header=header)), at
    yield 'table-repeat-first', table(lambda n: [13, 0] + n, (64, 65))
    yield 'table-too-long', table(lambda n: n + [1, 1])
    yield 'table-extra-byte', table(lambda n: n + [0] * (2 + len(n) % 2))
    yield 'table-ends-early', table(lambda n: n[:-3])
    yield 'table-empty', table(lambda n: [])
    yield 'table-run-13-past-end', table(lambda n: [1, 1] + [14, 15] * 3 + [13, 15])
    yield 'table-run-14-past-end', table(lambda n: [1, 1] + [14, 15] * 4)
    yield 'table-run-15-past-end', table(lambda n: [1, 1, 15, 12, 2])
    yield 'table-run-cut-14', table(lambda n: [1, 1] + [14, 15] * 3 + [0] * 7 + [14])
    yield 'table-run-cut-15', table(lambda n: [1, 1] + [0] * 41 + [15])
    yield 'table-run-cut-15b', table(lambda n: [1, 1, 0, 15])
    # 64 lengths: two codes of length 1 at the front, then zeros: 15 a b covers 62 with a + 16 b = 43
    two = [1, 1, 15, 11, 2]
    yield 'table-spare-nibble', table(lambda n: two + [1], ANY, 1)
    yield 'table-one-code', table(lambda n: [1, 0, 15, 11, 2], ANY, 1)
    yield 'table-kraft-under', table(lambda n: [2, 1, 15, 11, 2], ANY, 2)
    yield 'table-kraft-over', table(lambda n: [1, 1, 2, 15, 10, 2], ANY, 2)
    yield 'table-kraft-over-much', table(lambda n: [1] * 20 + [15, 9, 1], ANY, 1)
    yield 'table-no-code', table(lambda n: [15, 13, 2], ANY, 1)
    yield 'table-above-max', table(lambda n: [1, 2, 2, 15, 10, 2], ANY, 1)
    yield 'table-below-max', table(lambda n: two, ANY, 2)


def section_cases():
    def pad(section):
        for levels in range(8, 16):  # until the length of the code table leaves room for padding
            hit = []

            def first(data):
                if data:
                    hit.append(1)
                    return bytes([1]) + data[1:]
                return data
            box = {}

            def where(blob, at):
                box['end'] = at[section]
                return blob
            blob = build('cols', hook_of(**{'pad_before_' + section: first}), where, levels=levels)
            if hit:
                return blob, (box['end'] - 15, box['end'] - 1)
        raise AssertionError(section)
    yield 'pad-table', pad('row_scales')
    yield 'pad-row-scales', pad('col_scales')
    yield 'pad-col-scales', pad('offsets')
    yield 'pad-offsets', pad('tiles')

    def offsets(f):
        def change(blob, at):
            count = struct.unpack_from('<I', blob, 40)[0] + 1
            o = list(struct.unpack_from('<%dI' % count, blob, at['offsets']))
            f(o)
            struct.pack_into('<%dI' % count, blob, at['offsets'], *o)
        return build('cols', change=change), ANY

    def set_to(i, f):
        def change(o):
            o[i] = f(o)
        return offsets(change)
    yield 'offset-first', set_to(0, lambda o: 1)
    yield 'offset-falls', set_to(1, lambda o: o[2] + 1)
    yield 'offset-huge', set_to(1, lambda o: 0xFFFFFFFF)
    yield 'offset-last-less', set_to(-1, lambda o: o[-1] - 1)
    yield 'offset-last-more', set_to(-1, lambda o: o[-1] + 1)
    yield 'offset-moved', set_to(1, lambda o: o[1] + 1)
    yield 'offset-empty-tile', set_to(1, lambda o: 0)
    yield 'offset-short-tile', set_to(1, lambda o: 2)

    def short_wide(n):  # the base length says wide, and the tile ends before the 64 bytes of lane lengths do
        def change(blob, at):
            struct.pack_into('<I', blob, at['offsets'] + 4, n)
            blob[at['tiles'] + 1] |= 128
        return build('cols', change=change), ANY
    for n in (2, 3, 4):
        yield 'offset-short-wide-tile-%d' % n, short_wide(n)


def tile_cases():
    def tile(kind, f, **kw):
        def change(parts):
            f(parts)
            return parts
        return build(kind, hook_of(tile_0=change), **kw), ANY

    def header_fix(kind, f, fixes, **kw):  # a tile whose count of corrections changes, with a header that agrees
        def change(parts):
            f(parts)
            return parts
        return build(kind, hook_of(tile_0=change, header=lambda h: {**h, 'outliers': h['outliers'] + fixes}), **kw), ANY
    for kind in ('rd8', 'rd3', 'rd4', 'rd16', 'int8', 'bf16', 'fp16', 'fold', 'trellis', 'trellis16'):
        def longer(p):
            p['lanes'][3] += 1
            p['lanes'][4] -= 1
        yield 'lane-longer-' + kind, tile(kind, longer, extra=9)

        def all_shorter(p):
            p['base'] -= 1
        yield 'lanes-shorter-' + kind, tile(kind, lambda p: p.update(base=p['base'] - 1))
        yield 'lanes-last-longer-' + kind, tile(kind, lambda p: p['lanes'].__setitem__(31, p['lanes'][31] + 1))

        def codes(p):
            p['codes'] = p['codes'] + bytes(16)
        yield 'codes-extra-words-' + kind, tile(kind, codes)
        yield 'codes-missing-words-' + kind, tile(kind, lambda p: p.update(codes=p['codes'][:-16]))

    def wide_longer(p):
        p['lanes'][3] += 1
        p['lanes'][4] -= 1
    yield 'wide-lane-longer', tile('rd8', wide_longer, wide=True)
    yield 'wide-lane-huge', tile('rd8', lambda p: p['lanes'].__setitem__(7, 65535), wide=True)
    yield 'wide-bit-only', tile('rd8', lambda p: p.update(base=p['base'] | 0x8000))
    yield 'wide-bit-missing', tile('rd8', lambda p: p.update(lanes=[x & 255 for y in p['lanes'] for x in (y, y >> 8)],
                                                             wide=False),
                                   wide=True)

    def spare_bit(p):
        used = sum(p['lanes']) + 32 * p['base']
        assert used % 32, 'no spare bit'
        data = bytearray(p['codes'])
        data[-1] |= 128
        p['codes'] = bytes(data)
    yield 'codes-spare-bit', tile('rd8', spare_bit)
    yield 'codes-spare-bit-16', tile('rd16', spare_bit)
    yield 'planes-missing', tile('rd8', lambda p: p.update(planes=p['planes'][:-16]))
    for kind in ('trellis', 'trellis16', 'trellis-fold'):
        yield 'planes-missing-path-' + kind, tile(kind, lambda p: p.update(planes=p['planes'][:-128]))
        yield 'planes-extra-path-' + kind, tile(kind, lambda p: p.update(planes=p['planes'] + bytes(128)))
    yield 'planes-missing-signs', tile('fold', lambda p: p.update(planes=p['planes'][:-128]))
    yield 'planes-extra', tile('bf16', lambda p: p.update(planes=p['planes'] + bytes(128)))

    def only(*entries):
        def f(p):
            p['entries'] = list(entries)
        return f
    # one outlier list in place of the real one; the matrix is 5 x 30, W = 32
    count = {}
    for kind in ('rd8', 'rd3', 'rd4', 'rd16', 'bf16', 'fp16', 'int8', 'fold', 'trellis', 'trellis16', 'trellis-fold'):
        def see(parts, kind=kind):
            count[kind] = parts['fixes']
            return parts
        build(kind, hook_of(tile_0=see))

    def listed(kind, *entries):
        n = sum(a < 255 for a, _ in entries)
        return header_fix(kind, only(*entries), n - count[kind])
    for kind in ('rd8', 'rd16', 'bf16', 'fold', 'trellis', 'trellis16'):
        yield 'outlier-beyond-tile-' + kind, listed(kind, (254, 1), (254, 1), (1, 1), (0, 1))
        yield 'outlier-beyond-tile-skip-' + kind, listed(kind, (255, 1), (2, 1))
        yield 'outlier-far-skip-' + kind, listed(kind, (255, 255), (0, 1))
        yield 'outlier-padding-column-' + kind, listed(kind, (30, 1))
        yield 'outlier-padding-row-' + kind, listed(kind, (160, 1))
    def positions(kind, digit):
        """Where elements are coded with this digit that are no outliers."""
        spec, m = base(kind, np.random.default_rng(7))
        spec.rows, spec.cols = m.shape
        for lane, tuples in enumerate(ref.wanted_tuples(spec, m, next(ref.tiles_of(spec)))):
            order = ref.lane_order(spec, lane, 32)
            for n, digits in enumerate(tuples):
                if all(d is not None and 0 <= d < spec.levels for d in digits):
                    for i, d in enumerate(digits):
                        row, column = order[n * spec.tuple + i]
                        if d == digit and row * 32 + column < 255:
                            yield row * 32 + column
    for kind in ('rd8', 'rd3', 'rd4', 'rd16', 'int8', 'bf16', 'fp16', 'fold', 'trellis', 'trellis16', 'trellis-fold'):
        right = base(kind, np.random.default_rng(7))[0].stand_in
        for digit in range(8):
            at = min(positions(kind, digit), default=None)
            if digit != right and at is not None:
                yield 'outlier-digit-%d-%s' % (digit, kind), listed(kind, (at, 1))
        if kind in ('rd8', 'rd16', 'int8', 'fold', 'trellis', 'trellis16', 'trellis-fold'):
            yield 'outlier-above-range-' + kind, listed(kind, (min(positions(kind, right)), 127))
            yield 'outlier-below-range-' + kind, listed(kind, (min(positions(kind, right)), 128))
        if kind in ('trellis', 'trellis16'):  # the first hi on either side that is out of range, from hi 0
            spec = base(kind, np.random.default_rng(7))[0]
            end = (128 if spec.layout == 8 else 2048) >> spec.low_bits()
            yield 'outlier-next-above-range-' + kind, listed(kind, (min(positions(kind, right)), end))
            yield 'outlier-next-below-range-' + kind, listed(kind, (min(positions(kind, right)), 255 - end))
    # skips of 255 * 256 that take the position past 2^31
    yield 'outlier-position-wraps', listed('rd8', *([(255, 255)] * 33001 + [(0, 1)]))

    def padded(kind, f):
        def change(p):
            n = -len(ref.front_bytes(p)) % 16
            assert n >= 2
            p['tail'] = f(n)
        return tile(kind, change)
    for kind in ('rd8', 'fold', 'bf16'):
        yield 'pad-tile-first-' + kind, padded(kind, lambda n: b'\1' + bytes(n - 1))
        yield 'pad-tile-last-' + kind, padded(kind, lambda n: bytes(n - 1) + b'\x80')
        yield 'pad-tile-long-' + kind, padded(kind, lambda n: bytes(n + 16))


def scale_cases():
    def changed(kind, section, index, data, **kw):
        box = {}

        def change(blob, at):
            box['at'] = at[section] + index * len(data)
            blob[box['at']:box['at'] + len(data)] = data
            return blob
        blob = build(kind, change=change, **kw)
        return blob, (box['at'], box['at'])
    values = {'nan': float('nan'), 'inf': float('inf'), 'minus-inf': float('-inf')}
    for name, v in values.items():
        half = bytes(ref.f32_to_bf16(v).tobytes()) if name != 'nan' else b'\xc0\x7f'
        yield 'row-scale-bf16-' + name, changed('int8', 'row_scales', 3, half)
        yield 'row-scale-fp16-' + name, changed('cols', 'row_scales', 36, np.float16(v).tobytes())
        yield 'row-scale-f32-' + name, changed('int8', 'row_scales', 0, struct.pack('<f', v), row_scale=4, dtype=ref.F32,
                                               row_values=np.ones(5, np.float32))
        yield 'col-scale-' + name, changed('cols', 'col_scales', 138, half)
    # the number itself is finite, the step is not
    yield 'row-scale-quotient-inf', changed('rd8', 'row_scales', 4, struct.pack('<f', 3e38), row_scale=4, scale=0.5,
                                            row_values=np.ones(5, np.float32))


def write_reject(folder):
    """Writes every blob; returns what the index says of each. `position`: first and last byte that an error may name,
    None = any of the blob."""
    os.makedirs(folder, exist_ok=True)
    entries = []
    for cases in (header_cases, table_cases, section_cases, scale_cases, tile_cases):
        for name, (blob, where) in cases():
            path = os.path.join(folder, name + '.blob')
            assert not os.path.exists(path), name
            with open(path, 'wb') as f:
                f.write(blob)
            entries.append({'file': 'reject/%s.blob' % name, 'position': None if where == ANY else list(where)})
    return entries
