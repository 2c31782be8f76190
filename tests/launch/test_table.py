"""launch/table.py: what it runs, how it goes on, and the tables that it prints; a stub trains nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import bench_step
import pytest
import table_text
import table_time
from table_cells import Cell, Folder, State

SEED = ROOT.parent / 'shared' / 'seed' / 'SREML_README.md'
TABLE = [sys.executable, str(ROOT / 'launch' / 'table.py')]
# car: ends well. cub: a mistake of the user's. sop: waits for Ctrl-C, and ends well the next time.
STUB = """
import json, pathlib, signal, sys, time
from support.paths import ROOT
flags = dict(argument.split('=', 1) for argument in sys.argv[1:])
workdir = pathlib.Path(flags['--workdir'])
def stop(*_):
    print('stopped and saved', file=sys.stderr)
    sys.exit(130)
if 'cub' in workdir.name:
    print('going on\\nerror: there are no birds', file=sys.stderr)
    sys.exit(2)
again = workdir.exists()
workdir.mkdir(exist_ok=True)
if 'sop' in workdir.name and not again:
    signal.signal(signal.SIGINT, stop)
    (workdir / 'ready').touch()
    time.sleep(60)
recall = {'1': 0.5, '2': float(flags['--config.learning_rate'])}
(workdir / 'results.json').write_text(json.dumps({'recall': recall, 'notes': []}))
"""


def test_the_seeds_figures_are_those_of_its_readme():
    if not SEED.exists():
        pytest.skip(f'{SEED} is not here')
    text = re.sub(r'<[^>]*>', ' ', SEED.read_text())
    text = text[text.index('parameter details') :]
    counts = re.findall(r'\d[\d,]{9,}', text)
    seed = table_text.seed()
    backbones = list(seed['parameters'])
    ours = [seed['parameters'][b].get(d) for d in ('CARS196', 'CUB200', 'In-shop') for b in backbones]
    assert [int(c.replace(',', '')) for c in counts] == [c for c in ours if c]
    ks = ['1', '2', '4', '8', '10', '20', '30', '40', '50', '100', '1000']
    recall = seed['recall_percent']
    ours = [column[k] for b in backbones for k in ks for column in recall[b].values()]
    assert [float(p) for p in re.findall(r'([\d.]+)%', text)] == ours
    assert set(recall['resnet18']) == {'CARS196', 'CUB200', 'CARS196 (Crop)', 'CUB200 (Crop)', 'In-shop'}


def test_table_of_recall():
    cells = [Cell('car', 'uncropped', 'resnet18'), Cell('cub', 'cropped', 'resnet18')]
    cells += [Cell('sop', 'uncropped', 'resnet18'), Cell('isc', 'uncropped', 'resnet18')]
    done = {'recall': {'1': 0.898549, '3': 1.0}, 'notes': ['2 images are missing']}
    states = {
        cells[0]: State('done', done, extra=('--config.seed=1',)),
        cells[1]: State('failed', reason='no birds'),
        cells[2]: State('done', {'recall': {'1': 0.25}, 'notes': [], 'embedding': 'resnet18 x 48, pooled'}),
        cells[3]: State('not run'),
    }
    lines = table_text.recall_table('resnet18', states).splitlines()
    rows = {cells[0]: cells[1:] for line in lines if (cells := re.split(r' *\| *', line.strip('| ')))[1:]}
    assert rows['Dataset'] == ['CARS196', 'CUB200 (Crop)', 'SOP', 'In-shop']
    assert rows['R@1'] == ['89.85% (89.85%, +0.00)', 'failed (73.48%)', '25.00% (/)', 'not run (83.88%)']
    assert rows['R@2'] == ['/ (93.99%)', 'failed (82.26%)', '/ (/)', 'not run (89.15%)']
    assert rows['R@3'] == ['100.00% (/)', 'failed (/)', '/ (/)', 'not run (/)']
    assert lines[-4:] == [
        '- CARS196: 2 images are missing',
        '- CARS196: run with --config.seed=1',
        '- CUB200 (Crop): failed: no birds',
        '- SOP: evaluated with --config.embedding=pooled',
    ]
    assert len({len(line) for line in lines if line.startswith('|')}) == 1


def test_table_of_parameters():
    cells = [Cell('car', crop, b) for b in ('resnet18', 'resnet34') for crop in ('uncropped', 'cropped')]
    cells += [Cell('isc', 'uncropped', b) for b in ('resnet18', 'resnet34')]
    numbers = {'car': 529_365_376, 'isc': 533_797_690}
    text = table_text.parameter_table(cells, lambda cell: numbers[cell.dataset])
    assert '| CARS196  | 529,365,376 (529,365,376, 0)  | 529,365,376 (1,011,079,808, -481,714,432) |' in text
    assert '| In-shop  | 533,797,690 (533,797,696, -6) | 533,797,690 (/) ' in text


def run(*arguments: str, program: str = '', **options) -> subprocess.Popen:
    """Starts launch/table.py; `program` takes the place of sreml_jax.main."""
    start = 'import sys, table_cells, table; table_cells.PROGRAM = sys.argv.pop(1).split(); table.main()'
    command = [sys.executable, '-c', start, program] if program else TABLE
    environment = os.environ | {'PYTHONPATH': str(ROOT / 'launch')}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return subprocess.Popen([*command, *arguments], env=environment | options, **pipes)


def wait_for(path: Path) -> None:
    """Returns when the file is there."""
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f'{path} has not come')


def test_stopped_resumed_and_a_cell_that_failed(tmp_path):
    (tmp_path / 'stub.py').write_text(STUB)
    program, table = f'{sys.executable} {tmp_path / "stub.py"}', tmp_path / 'table'
    arguments = [f'--folder={table}', '--backbones=resnet18', '--crops=uncropped', '--datasets=car,cub,sop']
    arguments += ['--config.learning_rate=0.75', '--config.ensemble_size=1']

    first = run(*arguments, program=program)
    wait_for(table / 'sop-uncropped-resnet18' / 'ready')
    second = run(*arguments, program=program)
    told = second.communicate(timeout=60)[1]
    assert f'still under way; wait for it, or end it: kill {first.pid}, or, where only the run' in told
    assert second.returncode == 2
    first.send_signal(signal.SIGINT)
    output, errors = first.communicate(timeout=60)
    assert first.returncode == 130 and output == ''
    assert 'CARS196, resnet18: done, R@1 50.00%' in errors
    assert 'CUB200, resnet18: failed\n    there are no birds' in errors
    assert 'SOP, resnet18: not finished\nstopped; the same command goes on from there' in errors
    folder = Folder(table, ('--config.learning_rate=0.75', '--config.ensemble_size=1'))
    words = [folder.state(Cell(d, 'uncropped', 'resnet18')).word for d in ('car', 'cub', 'sop', 'isc')]
    assert words == ['done', 'failed', 'not finished', 'not run']

    again = run(*arguments, program=program)
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 1, errors
    assert 'CARS196' not in errors and 'SOP, resnet18: done' in errors
    assert '| R@2     | 75.00% (93.99%, -18.99) | failed (73.26%) | 75.00% (/) |' in output
    assert '- CUB200: failed: there are no birds' in output
    assert '- CARS196, CUB200, SOP: run with --config.learning_rate=0.75 --config.ensemble_size=1' in output
    assert re.search(r'CARS196 +\| [\d,]+ \(529,365,376', output)
    assert not list(table.rglob('*.tmp'))


def test_killed_by_a_signal_is_a_failure_and_a_stop_is_none(tmp_path):
    folder, cell = Folder(tmp_path), Cell('car', 'cropped', 'resnet50')
    folder.keep_arguments(cell)
    assert folder.state(cell).word == 'not run'
    folder.log(cell).write_text('going on from step 7\n')
    assert folder.end(cell, -9) == State('failed', reason='killed by signal 9; going on from step 7')
    (tmp_path / cell.name).mkdir()
    assert folder.end(cell, 143).word == 'not finished'


def test_the_plan(tmp_path):
    done = tmp_path / 'table' / 'car-uncropped-resnet18' / 'results.json'
    done.parent.mkdir(parents=True)
    done.write_text('{"recall": {}}')
    arguments = [f'--folder={tmp_path / "table"}', '--datasets=car', '--backbones=resnet18', '--dry-run']
    output = run(*arguments, '--card=Abacus', '--config.batch_size=6').communicate(timeout=60)[0]
    assert output.splitlines() == [
        f'python -m sreml_jax.main --config=configs/car.py --workdir={done.parents[1]}/car-cropped-resnet18 '
        '--config.model_type=resnet18 --config.crop_type=cropped --config.batch_size=6',
        '# no figure of this on Abacus; there, make it by python launch/bench.py step '
        '--model_type=resnet18 --members=48 --width=64 --batch=6 --size=256 --dtype=auto --conv=auto '
        '--json=launch/bench_results/Abacus-resnet18-batch6.json',
    ]
    output = run(*arguments, '--slurm').communicate(timeout=60)[0]
    assert output.startswith('sbatch --array=0-0 ') and output.endswith('/logs car-cropped-resnet18\n')


def test_time_on_a_card(tmp_path):
    cell = Cell('cub', 'uncropped', 'resnet34')
    config = Folder(tmp_path, ('--config.num_epochs=2',)).config(cell)
    arguments = {'model_type': 'resnet34', 'members': 48, 'width': 64, 'batch': 12, 'size': 256}
    arguments |= {'remat': False, 'dtype': 'auto', 'conv': 'auto'}
    for i, (date, device, other, seconds) in enumerate(
        [
            ('2026-11-01', 'NVIDIA H100 80GB HBM3', {}, 0.5),
            ('2026-11-03', 'NVIDIA H100 80GB HBM3', {}, 0.25),
            ('2026-11-02', 'NVIDIA H100 80GB HBM3', {}, 0.5),
            ('2026-11-04', 'NVIDIA H100 80GB HBM3', {'batch': 24}, 0.5),
            ('2026-11-05', 'NVIDIA V100', {}, 0.5),
            ('2026-11-06', 'NVIDIA H100 80GB HBM3', {'dtype': 'float32'}, 0.5),
            ('2026-11-07', 'NVIDIA H100 80GB HBM3', {'conv': 'grouped'}, 0.5),
        ]
    ):
        figures = {'device': device, 'step seconds': seconds}
        record = {'date': date, 'arguments': arguments | other, 'figures': figures}
        (tmp_path / f'{i}.json').write_text(json.dumps(record))
    (tmp_path / 'recall.json').write_text('{"date": "2026-11-06", "arguments": {}, "figures": {}}')
    step = table_time.figure(config, 'h100', tmp_path)
    assert step == (0.25, 'NVIDIA H100 80GB HBM3', '1.json, 2026-11-03')
    # 5,864 images are 488 batches of 12, twice; 5,924 are 494 forward passes.
    assert table_time.seconds(config, step) == pytest.approx(2 * 488 * 0.25 + 494 * 0.25 / 3, rel=1e-3)
    config.dtype = 'float32'
    assert table_time.figure(config, 'h100', tmp_path).source == '5.json, 2026-11-06'
    config.model_type = 'resnet50'
    assert table_time.figure(config, 'h100', tmp_path) is None


def test_figures_of_different_configs_are_kept_in_different_files(tmp_path):
    files = set()
    changes = [('model_type', 'resnet18'), ('batch_size', 6), ('batch_size', 24), ('ensemble_size', 6)]
    for field, value in [*changes, ('remat', True), ('dtype', 'float32'), ('member_conv', 'grouped')]:
        config = Folder(tmp_path).config(Cell('cub', 'uncropped', 'resnet34'))
        config[field] = value
        command = table_time.bench(config, 'H100').split()
        files.add(next(word for word in command if word.startswith('--json=')))
    assert len(files) == 7


def test_a_bench_record_names_the_fields_that_time_depends_on(monkeypatch):
    kept, config_of = [], bench_step.config_of
    monkeypatch.setattr(
        bench_step, 'config_of', lambda args: kept.append((args, config_of(args))) or sys.exit()
    )
    wanted = ['--members=2', '--width=8', '--batch=3', '--size=32', '--model_type=resnet34', '--remat']
    wanted += ['--dtype=float32', '--conv=grouped']
    monkeypatch.setattr(sys, 'argv', ['bench', *wanted])
    with pytest.raises(SystemExit):
        bench_step.main()
    args, config = kept[0]
    values = [(getattr(args, theirs), config[ours]) for theirs, ours in table_time.FIELDS.items()]
    assert values == [(value, value) for value in ('resnet34', 2, 8, 3, 32, True, 'float32', 'grouped')]


def job(place: Path, cell: Cell, srun: str) -> subprocess.Popen:
    """Starts table.sbatch for a cell as SLURM would, with this script in the place of srun."""
    for name, text in (('srun', srun), ('scontrol', f'echo "$@" >{place}/requeued')):
        (place / name).write_text(f'#!/bin/sh\n{text}\n')
        (place / name).chmod(0o755)
    slurm = {'SLURM_SUBMIT_DIR': str(place), 'SLURM_ARRAY_TASK_ID': '1', 'SLURM_JOB_ID': '77'}
    command = ['bash', str(ROOT / 'launch' / 'table.sbatch'), 'table/logs', 'car-cropped-resnet18', cell.name]
    environment = os.environ | slurm | {'PATH': f'{place}:{os.environ["PATH"]}'}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_cell_that_another_job_runs_or_has_finished_is_let_be(tmp_path):
    folder, cell = Folder(tmp_path / 'table'), Cell('sop', 'uncropped', 'resnet18')
    folder.keep_arguments(cell)
    (folder.path / 'lock').write_text('kill 1234')  # of one that was killed
    begin = f'touch {tmp_path}/started'
    first = job(tmp_path, cell, f'{begin}; while [ ! -e {tmp_path}/end ]; do sleep 0.05; done')
    wait_for(tmp_path / 'started')
    (tmp_path / 'started').unlink()
    again = job(tmp_path, cell, begin)
    assert 'is being run already' in again.communicate(timeout=60)[1] and again.returncode == 0
    by_hand = run(f'--folder={folder.path}', '--datasets=sop', '--backbones=resnet18')
    told = by_hand.communicate(timeout=60)[1]
    assert 'is still under way; wait for it, or end it: scancel its jobs' in told
    assert by_hand.returncode == 2
    (tmp_path / 'end').touch()
    first.communicate(timeout=60)
    assert first.returncode == 0 and folder.log(cell, 'exit').read_text() == '0\n'

    (folder.path / cell.name).mkdir()
    (folder.path / cell.name / 'results.json').write_text('{}')
    late = job(tmp_path, cell, begin)
    assert 'is done already' in late.communicate(timeout=60)[1] and late.returncode == 0
    assert not (tmp_path / 'started').exists()


def test_one_cell_under_slurm(tmp_path):
    folder, cell = Folder(tmp_path / 'table'), Cell('sop', 'uncropped', 'resnet18')
    folder.keep_arguments(cell)
    started = f'printf "%s\\n" "$@" >{tmp_path}/started; echo "time is up" >&2; exit 143'
    under_way = job(tmp_path, cell, started)
    under_way.communicate(timeout=60)
    assert under_way.returncode == 143
    assert (tmp_path / 'requeued').read_text() == 'requeue 77\n'
    started = (tmp_path / 'started').read_text().splitlines()
    assert started == ['.venv/bin/python', '-m', 'sreml_jax.main', *folder.arguments(cell)]
    assert folder.log(cell, 'exit').read_text() == '143\n' and folder.log(cell).read_text() == 'time is up\n'
    assert sorted(path.suffix for path in (tmp_path / 'table' / 'logs').iterdir()) == [
        '.args',
        '.exit',
        '.lock',
        '.log',
    ]


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('--datasets=car,birds', 'birds; known are car, cub, sop, isc'),
        ('--config.bath_size=3', "config has no field 'bath_size' (did you mean batch_size"),
        ('--config.model_type=resnet18', 'the table sets config.model_type itself'),
        ('--config.batch_size=many', 'many'),
        ('--cards=H100', 'unknown argument --cards=H100'),
    ],
)
def test_a_mistake_on_the_command_line(argument, message):
    table = run(argument, '--folder=/nowhere')
    assert message in table.communicate(timeout=60)[1]
    assert table.returncode == 2
