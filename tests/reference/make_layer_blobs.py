"""Layer blobs (docs/FORMAT.md part 3), valid ones and some that must be refused; written from the text alone, for make_vectors.py.
Frames of Zstandard are made by hand, of uncompressed blocks: no library has a part in them."""
import os
import struct
import zlib

import numpy as np

TILE, ZSTD = 1, 2
BF16, FP16, I8, I16 = 1, 2, 4, 5
TYPES = {I8: 'i8', I16: 'i16', BF16: 'u16', FP16: 'u16'}


def frame(data):
    """A frame (RFC 8878) that says its content size in four bytes, of one uncompressed block."""
    return b'\x28\xb5\x2f\xfd\xa0' + struct.pack('<I', len(data)) + struct.pack('<I', len(data) << 3 | 1)[:3] + data


def pad(part):
    return part + bytes(-len(part) % 16)


def zstd_payload(q, chunk_bytes, scales=None):
    data = q.tobytes()
    frames = [frame(data[i:i + chunk_bytes]) for i in range(0, len(data), chunk_bytes)]
    table = struct.pack('<%dI' % len(frames), *map(len, frames))
    parts = [] if scales is None else [np.asarray(scales, '<f4').tobytes()]
    return b''.join(pad(part) for part in parts + [table] + frames), len(frames)


def layer(codec, dtype, rows, cols, payload, chunk_bytes=0, chunks=0, flags=0, magic=b'CLLB', version=1, reserved=bytes(24), length=None,
          payload_crc=None, header_crc=None):
    def header(crc):
        return struct.pack('<4sBBBBIIQIIII24s', magic, version, codec, dtype, flags, rows, cols, len(payload) if length is None else length,
                           chunk_bytes, chunks, zlib.crc32(payload) if payload_crc is None else payload_crc, crc, reserved)
    return header(zlib.crc32(header(0)) if header_crc is None else header_crc) + payload


def integers():
    rng = np.random.default_rng(5)
    return np.clip(np.rint(rng.normal(0, 20, (7, 30))), -128, 127).astype(np.int8), rng.uniform(0.01, 1, 7).astype('<f4')


def write_valid(folder, tensors):
    """tensors: where the tensor blobs of the valid vectors lie. Returns what the index says of each."""
    os.makedirs(folder, exist_ok=True)
    entries = []

    def put(name, data):
        with open(os.path.join(folder, name), 'wb') as f:
            f.write(data)
        return os.path.basename(folder) + '/' + name

    def write(name, codec, dtype, rows, cols, blob, elements, scales=None):
        entries.append({'file': put(name + '.blob', blob), 'codec': codec, 'rows': rows, 'cols': cols, 'elements': elements,
                        'elements_type': TYPES[dtype], 'scales': scales})
    for name, dtype in (('int8-n2-r1', I8), ('rd8-fold-r0', I8), ('rd16-r5', I16), ('bf16', BF16), ('fp16', FP16)):
        tensor = open(os.path.join(tensors, name + '.blob'), 'rb').read()
        rows, cols = struct.unpack_from('<II', tensor, 16)
        write('tile-' + name, 'tile', dtype, rows, cols, layer(TILE, dtype, rows, cols, tensor),
              '%s/%s.elem' % (os.path.basename(tensors), name))
    q, scales = integers()
    for name, chunk, s in (('one-chunk', 4096, None), ('chunks', 64, None), ('exact', 105, None), ('scales', 64, scales)):
        payload, chunks = zstd_payload(q, chunk, s)
        write('zstd-' + name, 'zstd', I8, *q.shape, layer(ZSTD, I8, *q.shape, payload, chunk, chunks, int(s is not None)),
              put('zstd-%s.elem' % name, q.tobytes()), None if s is None else put('zstd-%s.scales' % name, s.tobytes()))
    return entries


def reject_cases(tensors):
    """name, blob, (first, last) byte that an error may name."""
    q, scales = integers()
    payload, chunks = zstd_payload(q, 64, scales)
    good = dict(codec=ZSTD, dtype=I8, rows=7, cols=30, payload=payload, chunk_bytes=64, chunks=chunks, flags=1)

    def z(**kw):
        return layer(**{**good, **kw})
    yield 'magic', z(magic=b'CLLA'), (0, 3)
    yield 'version-0', z(version=0), (4, 4)
    yield 'version-2', z(version=2), (4, 4)
    for codec in (0, 3):
        yield 'codec-%d' % codec, z(codec=codec), (5, 5)
    for dtype in (0, BF16, FP16, 3, I16, 6):
        yield 'zstd-dtype-%d' % dtype, z(dtype=dtype), (6, 6)
    yield 'zstd-flags', z(flags=3), (7, 7)
    yield 'zstd-no-rows', z(rows=0), (8, 15)
    yield 'zstd-no-cols', z(cols=0), (8, 15)
    yield 'zstd-chunk-0', z(chunk_bytes=0), (24, 27)
    yield 'zstd-chunk-huge', z(chunk_bytes=(1 << 24) + 1), (24, 27)
    yield 'zstd-chunks-more', z(chunks=chunks + 1), (28, 31)
    yield 'zstd-chunks-less', z(chunks=chunks - 1), (28, 31)
    yield 'header-crc', z(header_crc=1), (36, 39)
    yield 'payload-crc', z(payload_crc=1), (32, 64 + len(payload))
    yield 'reserved-first', z(reserved=b'\1' + bytes(23)), (40, 40)
    yield 'reserved-last', z(reserved=bytes(23) + b'\1'), (40, 63)
    yield 'cut-header', z()[:63], (63, 63)
    yield 'cut-payload', z()[:-1], (0, 64 + len(payload) - 1)
    yield 'zstd-payload-longer', z(payload=payload + bytes(16)), (64 + len(payload), 64 + len(payload) + 15)
    for name, v in (('nan', float('nan')), ('inf', float('inf'))):
        yield 'zstd-scale-' + name, z(payload=changed_in(payload, 8, struct.pack('<f', v))), (64 + 8, 64 + 8)
    table = 32  # of the payload, after 7 scales and their padding
    first = struct.unpack_from('<I', payload, table)[0]

    def changed(at, data):
        return changed_in(payload, at, data)
    yield 'zstd-frame-empty', z(payload=changed(table, bytes(4))), (64 + table, 64 + table + 3)
    yield 'zstd-frame-huge', z(payload=changed(table, b'\xff\xff\xff\xff')), (64 + table, 64 + table + 3)
    frames = table + len(pad(bytes(4 * chunks)))
    # one byte of padding after the scales, of the table is none, after the first frame
    yield 'zstd-padding-scales', z(payload=changed(28, b'\1')), (64 + 28, 64 + 28)
    assert first % 16
    yield 'zstd-padding-frame', z(payload=changed(frames + first, b'\1')), (64 + frames + first, 64 + frames + first)
    yield 'zstd-padding-last', z(payload=changed(len(payload) - 1, b'\1')), (64 + len(payload) - 1, 64 + len(payload) - 1)
    wide, n = zstd_payload(q, 70)
    assert n == 3  # 12 bytes of table, 4 of padding
    yield 'zstd-padding-table', z(payload=changed_in(wide, 12, b'\1'), chunk_bytes=70, chunks=3, flags=0), (64 + 12, 64 + 12)
    # a frame whose content is another length than its chunk's
    short = bytearray(payload)
    struct.pack_into('<I', short, frames + 5, 63)
    yield 'zstd-content-size', z(payload=bytes(short)), (64, 64 + len(payload))
    tensor = open(os.path.join(tensors, 'int8-n2-r1.blob'), 'rb').read()
    rows, cols = struct.unpack_from('<II', tensor, 16)
    tile = dict(codec=TILE, dtype=I8, rows=rows, cols=cols, payload=tensor)
    yield 'tile-flags', layer(**{**tile, 'flags': 1}), (7, 7)
    yield 'tile-chunks', layer(**{**tile, 'chunks': 1}), (24, 31)
    yield 'tile-chunk-bytes', layer(**{**tile, 'chunk_bytes': 64}), (24, 31)
    yield 'tile-rows', layer(**{**tile, 'rows': rows + 1}), (0, 64 + len(tensor))
    yield 'tile-dtype', layer(**{**tile, 'dtype': I16}), (0, 64 + len(tensor))
    yield 'tile-dtype-bf16', layer(**{**tile, 'dtype': BF16}), (0, 64 + len(tensor))
    yield 'tile-longer', layer(**{**tile, 'payload': tensor + bytes(16)}), (0, 64 + len(tensor) + 16)
    raw = open(os.path.join(tensors, 'raw-bf16.blob'), 'rb').read()
    yield 'tile-raw', layer(TILE, BF16, 3, 5, raw), (0, 64 + len(raw))
    bad = tensor[:44] + struct.pack('<I', struct.unpack_from('<I', tensor, 44)[0] + 1) + tensor[48:]
    yield 'tile-outliers', layer(**{**tile, 'payload': bad}), (64 + 44, 64 + 47)


def changed_in(data, at, new):
    return data[:at] + new + data[at + len(new):]


def write_reject(folder, tensors):
    os.makedirs(folder, exist_ok=True)
    entries = []
    for name, blob, where in reject_cases(tensors):
        with open(os.path.join(folder, name + '.blob'), 'wb') as f:
            f.write(blob)
        entries.append({'file': os.path.basename(folder) + '/' + name + '.blob', 'position': list(where)})
    return entries
