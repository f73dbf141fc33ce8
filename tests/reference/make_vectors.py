#!/usr/bin/env python3
"""Writes docs/vectors again: always the same bytes. Needs numpy."""
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_bad_blobs  # noqa: E402
import make_layer_blobs  # noqa: E402
import reference_encoder  # noqa: E402


def main(folder):
    def at(name):
        path = os.path.join(folder, name)
        shutil.rmtree(path, ignore_errors=True)
        return path
    tensors = at('valid')
    index = {'valid': reference_encoder.write_valid(tensors), 'reject': make_bad_blobs.write_reject(at('reject')),
             'layer-valid': make_layer_blobs.write_valid(at('layer-valid'), tensors),
             'layer-reject': make_layer_blobs.write_reject(at('layer-reject'), tensors)}
    with open(os.path.join(folder, 'index.json'), 'w') as f:
        lists = ['"%s": [\n%s\n]' % (name, ',\n'.join(json.dumps(e) for e in entries)) for name, entries in index.items()]
        f.write('{\n"format_version": 1,\n' + ',\n'.join(lists) + '\n}\n')


if __name__ == '__main__':
    main(sys.argv[1] if len(sys.argv) > 1 else
         os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'docs', 'vectors'))
