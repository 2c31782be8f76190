"""Trials of training recipes on the training classes alone or, with --test, their score on the test classes.

python launch/bench trials --images=FOLDER --weights=resnet18.npz --json=trials.json
python launch/bench trials ... --recipes='cub_plus;cub_plus + mirrored=True' --seeds=0,1,2
python launch/bench trials ... --test           the test classes, which never choose a recipe

A recipe is a base (`BASES`), then ' + ' and a candidate or FIELD=VALUE, as often as wanted. Every fifth
training class, from the third on, is held out and searched. A trial that the file holds is not run again, so
a stopped command goes on; other images, weights or sizes of photographs need another file. Each trial has a
core of its own. The base cub_plus is what configs/cub_plus.py had before these trials.
"""

import argparse
import ast
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

import birds
import numpy as np
from measure import positive, write

BASES = {
    'seed': {},
    'cub_plus': {'pool': 'gem', 'label_smoothing': 0.1, 'embedding': 'pooled'},
}


def main() -> None:
    """Runs the trials that the file lacks, then prints the table of all."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--images', required=True, help='a folder or tar of <class>/*')
    p.add_argument('--weights', default='none', help='initial weights: a file, or none')
    p.add_argument('--json', required=True, type=Path, help='the trials, each kept when it ends')
    p.add_argument('--recipes', default='seed;cub_plus', help='separated by ;')
    p.add_argument('--seeds', default='0', help='separated by commas')
    p.add_argument(
        '--test', action='store_true', help='train on all training classes, search the test classes'
    )
    p.add_argument('--members', type=positive, default=2)
    p.add_argument('--size', type=positive, default=64)
    p.add_argument('--photographs', type=positive, default=256, help='side of what crops are cut from')
    p.add_argument('--epochs', type=positive, default=4)
    p.add_argument('--batch', type=positive, default=12)
    p.add_argument('--width', type=positive, default=64)
    p.add_argument('--stem', default='imagenet')
    p.add_argument('--jobs', type=positive, default=len(os.sched_getaffinity(0)), help='trials at once')
    p.add_argument('--core', type=int, help=argparse.SUPPRESS)  # of a trial
    args = p.parse_args()
    if args.recipes.startswith('{'):  # a trial of its own process
        os.sched_setaffinity(0, {args.core})
        threading.Thread(target=_end_with_parent, daemon=True).start()
        print(json.dumps(trial(json.loads(args.recipes), args)))
        return
    wanted = [{'recipe': r, 'seed': int(s)} for s in args.seeds.split(',') for r in args.recipes.split(';')]
    for chosen in wanted:
        parts_of(chosen['recipe'])
    kept = json.loads(args.json.read_text()) if args.json.exists() else []
    common = {name: getattr(args, name) for name in ('test', 'size', 'batch', 'width', 'stem')}
    common |= {'given': [args.members, args.epochs]}
    left = [x for x in ({**w, **common} for w in wanted) if not any(x.items() <= k.items() for k in kept)]
    failed = False
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        if left:
            data = birds.photographs(Path(args.images), args.size, Path(folder))
            for split, labels in data.labels.items():
                np.save(Path(folder) / f'{split}.npy', birds.whole(data, split))
                np.save(Path(folder) / f'{split}_labels.npy', labels)
            if 'crops' in args.recipes:
                larger = birds.photographs(Path(args.images), args.photographs, Path(folder))
                np.save(Path(folder) / 'larger.npy', birds.whole(larger, 'train'))
        cores: SimpleQueue[int] = SimpleQueue()
        for _, core in zip(range(args.jobs), itertools.cycle(sorted(os.sched_getaffinity(0))), strict=False):
            cores.put(core)

        def run(chosen: dict) -> dict:
            command = [sys.executable, str(Path(__file__).parent), 'trials', *sys.argv[1:]]
            core = cores.get()
            command += [f'--recipes={json.dumps(chosen)}', f'--images={folder}', f'--core={core}']
            try:
                with subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                ) as child:
                    assert child.stdout
                    lines = child.stdout.read().splitlines()
            finally:
                cores.put(core)
            return {} if child.returncode else {**chosen, **json.loads(lines[-1])}

        for done in as_completed([pool.submit(run, chosen) for chosen in left]):
            if found := done.result():
                kept = [*kept, found]
                write(args.json, kept)
                print(table([found]).splitlines()[-1], flush=True)
            else:
                failed = True
    print(table(kept))
    if failed:
        sys.exit('error: a trial failed; it says why above')


def parts_of(recipe: str) -> tuple[dict, list[str]]:
    """Returns the config fields of a recipe and its candidates."""
    from candidates import CANDIDATES

    base, *more = recipe.split(' + ')
    if base not in BASES:
        raise SystemExit(f'error: {base} is no base of a recipe; known are {", ".join(BASES)}')
    fields, chosen = dict(BASES[base]), []
    for part in more:
        name, is_field, value = part.partition('=')
        if is_field:
            with contextlib.suppress(ValueError):
                value = ast.literal_eval(value)
            fields[name] = value
        elif part in CANDIDATES:
            chosen.append(part)
        else:
            raise SystemExit(f'error: {part} is no candidate; known are {", ".join(CANDIDATES)}')
    return fields, chosen


def trial(chosen: dict, args: argparse.Namespace) -> dict:
    """Trains and evaluates one recipe; args.images holds the arrays."""
    from candidates import CANDIDATES

    from sreml_jax.data.in_memory import ArrayDataset
    from sreml_jax.evaluate import evaluate
    from sreml_jax.runtime.signals import Signals
    from sreml_jax.train import train

    arrays = {path.stem: np.load(path, mmap_mode='r') for path in Path(args.images).glob('*.npy')}
    labels = {name: arrays[f'{name}_labels'] for name in ('train', 'test')}
    images, labels = split(arrays, labels, args.test, 'larger' if 'crops' in chosen['recipe'] else 'train')
    fields, candidates = parts_of(chosen['recipe'])
    args.model_type, args.meta_classes = 'resnet18', 12
    config = birds.config_of(args)
    config.update(seed=chosen['seed'], width=args.width, stem=args.stem, checkpoint_minutes=1e4, **fields)
    normalized = (None, None)
    if args.weights != 'none':
        from sreml_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD

        normalized = IMAGENET_MEAN, IMAGENET_STD
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory() as folder,
        birds.timed() as seconds,
        contextlib.redirect_stdout(sys.stderr),
    ):
        for name in candidates:
            stack.enter_context(CANDIDATES[name]())
        dataset = ArrayDataset('trial', images, labels, *normalized)
        before = time.process_time()
        with birds.clock(seconds, 'training'):
            train(config, Path(folder), dataset, Signals())
        seconds['of cores'] = time.process_time() - before
        with birds.clock(seconds, 'evaluation'):
            evaluate(config, Path(folder), dataset, thorough=True)
        results = json.loads((Path(folder) / 'results.json').read_text())
    recall = {f'Recall@{k}': results['recall'][str(k)] for k in (1, 2, 4, 8)}
    more = {name: results[name] for name in ('members_curve', 'shrunk')}
    of_training = seconds['training'] - seconds['training: compilation']
    found = {'MAP@R': results['map_at_r'], 'seconds': of_training, 'evaluation': seconds['evaluation']}
    found['core seconds'] = seconds['of cores']
    return {'members': config.ensemble_size, 'epochs': config.num_epochs, **recall, **found, **more}


def split(
    images: dict[str, np.ndarray], labels: dict[str, np.ndarray], test: bool, trained: str = 'train'
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns images and labels to train on and to search: split -> [n, ...], split -> int [n].

    test: as they are; else every fifth training class, from the third on, is searched instead.
    trained: which of `images` holds the training images as they are trained on.
    """
    if test:
        return {'train': images[trained], 'test': images['test']}, labels
    held = labels['train'] % 5 == 2
    chosen = {'train': images[trained][~held], 'test': images['train'][held]}
    return chosen, {'train': labels['train'][~held], 'test': labels['train'][held]}


def _end_with_parent() -> None:
    """Ends a trial if the command that started it ends."""
    sys.stdin.read()
    os._exit(1)


def table(kept: list[dict]) -> str:
    """Returns the means over seeds, a recipe and setting a line, in Markdown."""
    groups: dict[tuple, list[dict]] = {}
    for x in kept:
        setting = (x.get(name) for name in ('batch', 'width', 'stem'))
        key = (x['recipe'], x['test'], x['size'], x['members'], x['epochs'], *setting)
        groups.setdefault(key, []).append(x)
    lines = [
        '| recipe | members x epochs | seeds: Recall@1 | mean (deviation) | @2 | @4 | @8 | MAP@R | seconds |'
    ]
    lines.append('|---' * 9 + '|')
    for (recipe, test, size, members, epochs, *_), found in groups.items():
        ones = [100 * x['Recall@1'] for x in found]
        means = [
            100 * statistics.mean(x[c] for x in found) for c in ('Recall@2', 'Recall@4', 'Recall@8', 'MAP@R')
        ]
        spread = f' ({statistics.stdev(ones):.1f})' if len(ones) > 1 else ''
        cells = [
            recipe + (', test classes' if test else ''),
            f'{members} x {epochs}, {size} px',
            ', '.join(f'{x:.1f}' for x in ones),
            f'{statistics.mean(ones):.1f}{spread}',
            *(f'{x:.1f}' for x in means),
            f'{statistics.mean(x.get("core seconds", x.get("seconds", 0)) for x in found):.0f}',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
