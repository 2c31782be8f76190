"""Damaged checkpoints: what was saved is restored, or the checkpoint before, or one sentence says why not.

The long form: SREML_FUZZ_CASES=2000 python -m pytest -n0 -s tests/fuzz/test_checkpoints_fuzz.py
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from support.checkpoints import assert_whole, read_all, saved, tree
from support.mutations import ODD, cases, mutated, odd_object

from sreml_jax.runtime import versions
from sreml_jax.runtime.errors import UserError
from sreml_jax.training.checkpoint import Checkpoints

CASES = 60


def damage(checkpoint: Path, random: np.random.Generator) -> str:
    """Damages one file or folder of a checkpoint; returns which."""

    def one(choices):
        return choices[random.integers(len(choices))]

    parts = tree(checkpoint)
    kind = random.integers(8)
    if kind == 0:  # anything, gone
        path = checkpoint / one(parts)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return f'{path.relative_to(checkpoint)} gone'
    if kind == 1:  # a file in the place of a folder
        path = checkpoint / one([part for part in parts if (checkpoint / part).is_dir()])
        shutil.rmtree(path)
        path.write_bytes(random.bytes(20))
        return f'{path.relative_to(checkpoint)} a file'
    # The arrays have many files, the other items one each.
    item = one(sorted(path for path in checkpoint.iterdir() if path.is_dir()))
    path = one([file for file in sorted(item.rglob('*')) if file.is_file()])
    content = path.read_bytes()
    if kind < 5 and content[:1] == b'{':
        known = json.loads(content)
        other = odd_object(known, random) if known and kind > 2 else one(ODD)
        path.write_text(json.dumps(other))
    else:
        path.write_bytes(mutated(content, random))
    return str(path.relative_to(checkpoint))


def test_damaged_checkpoints(tmp_path, caplog):
    good = tmp_path / 'good'
    states = dict(zip((3, 8), saved(good, 3, 8), strict=True))
    counts = Counter()
    for case in range(cases(CASES)):
        random = np.random.default_rng(case)
        workdir = tmp_path / 'damaged'
        shutil.copytree(good, workdir)
        what = [damage(workdir / 'checkpoints' / '8', random)]
        both = random.integers(4) == 0
        if both:
            what.append(damage(workdir / 'checkpoints' / '3', random))
        caplog.clear()
        try:
            checkpoints = Checkpoints(workdir, read_only=True)
            step, found = checkpoints.newest_whole(read_all(checkpoints))
            assert_whole(found, states[step])
            assert found[2] == versions.installed()
            assert ('cannot be read' in caplog.text) == (step == 3)
            counts['whole' if step == 8 else 'the one before'] += 1
        except UserError as error:
            assert both, (case, what, error)
            assert str(error).isprintable() and len(str(error)) < 1_000, (case, what, error)
            counts['refused'] += 1
        except BaseException as error:
            raise AssertionError(f'case {case}: {what}') from error
        assert all(len(r.message) < 1_000 and r.message.isprintable() for r in caplog.records), (case, what)
        shutil.rmtree(workdir)
    assert counts.total() == cases(CASES) and len(counts) == 3
    print(f'\n{cases(CASES)} damaged checkpoints: {dict(sorted(counts.items()))}')
