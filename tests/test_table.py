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

ROOT = Path(__file__).parent.parent
SEED = ROOT.parent / 'shared' / 'seed' / 'SREML_README.md'
TABLE = [sys.executable, str(ROOT / 'launch' / 'table.py')]
# car: ends well. cub: a mistake of the user's. sop: waits for Ctrl-C, and ends well the next time.
STUB = """
import json, pathlib, signal, sys, time
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
        cells[2]: State('done', {'recall': {'1': 0.25}, 'notes': []}),
        cells[3]: State('not run'),
    }
    lines = table_text.recall_table('resnet18', states).splitlines()
    rows = {cells[0]: cells[1:] for line in lines if (cells := re.split(r' *\| *', line.strip('| ')))[1:]}
    assert rows['Dataset'] == ['CARS196', 'CUB200 (Crop)', 'SOP', 'In-shop']
    assert rows['R@1'] == ['89.85% (89.85%, +0.00)', 'failed (73.48%)', '25.00% (/)', 'not run (83.88%)']
    assert rows['R@2'] == ['/ (93.99%)', 'failed (82.26%)', '/ (/)', 'not run (89.15%)']
    assert rows['R@3'] == ['100.00% (/)', 'failed (/)', '/ (/)', 'not run (/)']
    assert lines[-3:] == [
        '- CARS196: 2 images are missing',
        '- CARS196: run with --config.seed=1',
        '- CUB200 (Crop): failed: no birds',
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
        '--model_type=resnet18 --members=48 --width=64 --batch=6 --size=256 '
        '--json=launch/bench_results/Abacus-resnet18.json',
    ]
    output = run(*arguments, '--slurm').communicate(timeout=60)[0]
    assert output.startswith('sbatch --array=0-0 ') and output.endswith('/logs car-cropped-resnet18\n')


def test_time_on_a_card(tmp_path):
    cell = Cell('cub', 'uncropped', 'resnet34')
    config = Folder(tmp_path, ('--config.num_epochs=2',)).config(cell)
    for i, (date, device, batch, seconds) in enumerate(
        [
            ('2026-11-01', 'NVIDIA H100 80GB HBM3', 12, 0.5),
            ('2026-11-03', 'NVIDIA H100 80GB HBM3', 12, 0.25),
            ('2026-11-02', 'NVIDIA H100 80GB HBM3', 12, 0.5),
            ('2026-11-04', 'NVIDIA H100 80GB HBM3', 24, 0.5),
            ('2026-11-05', 'NVIDIA V100', 12, 0.5),
        ]
    ):
        arguments = {'model_type': 'resnet34', 'members': 48, 'width': 64, 'batch': batch, 'size': 256}
        figures = {'device': device, 'step seconds': seconds}
        record = {'date': date, 'arguments': arguments | {'remat': False}, 'figures': figures}
        (tmp_path / f'{i}.json').write_text(json.dumps(record))
    (tmp_path / 'recall.json').write_text('{"date": "2026-11-06", "arguments": {}, "figures": {}}')
    step = table_time.figure(config, 'h100', tmp_path)
    assert step == (0.25, 'NVIDIA H100 80GB HBM3', '1.json, 2026-11-03')
    # 5,864 images are 488 batches of 12, twice; 5,924 are 494 forward passes.
    assert table_time.seconds(config, step) == pytest.approx(2 * 488 * 0.25 + 494 * 0.25 / 3, rel=1e-3)
    config.model_type = 'resnet50'
    assert table_time.figure(config, 'h100', tmp_path) is None


def test_a_bench_record_names_the_fields_that_time_depends_on(monkeypatch):
    kept, config_of = [], bench_step.config_of
    monkeypatch.setattr(
        bench_step, 'config_of', lambda args: kept.append((args, config_of(args))) or sys.exit()
    )
    wanted = ['--members=2', '--width=8', '--batch=3', '--size=32', '--model_type=resnet34', '--remat']
    monkeypatch.setattr(sys, 'argv', ['bench', *wanted])
    with pytest.raises(SystemExit):
        bench_step.main()
    args, config = kept[0]
    values = [(getattr(args, theirs), config[ours]) for theirs, ours in table_time.FIELDS.items()]
    assert values == [(value, value) for value in ('resnet34', 2, 8, 3, 32, True)]


def test_one_cell_under_slurm(tmp_path):
    folder, cell = Folder(tmp_path / 'table'), Cell('sop', 'uncropped', 'resnet18')
    folder.keep_arguments(cell)
    for name, text in (
        ('srun', f'printf "%s\\n" "$@" >{tmp_path}/started; echo "time is up" >&2; exit 143'),
        ('scontrol', f'echo "$@" >{tmp_path}/requeued'),
    ):
        (tmp_path / name).write_text(f'#!/bin/sh\n{text}\n')
        (tmp_path / name).chmod(0o755)
    slurm = {'SLURM_SUBMIT_DIR': str(tmp_path), 'SLURM_ARRAY_TASK_ID': '1', 'SLURM_JOB_ID': '77'}
    command = ['bash', str(ROOT / 'launch' / 'table.sbatch'), 'table/logs', 'car-cropped-resnet18', cell.name]
    environment = os.environ | slurm | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    assert subprocess.run(command, env=environment, timeout=60).returncode == 143
    assert (tmp_path / 'requeued').read_text() == 'requeue 77\n'
    started = (tmp_path / 'started').read_text().splitlines()
    assert started == ['.venv/bin/python', '-m', 'sreml_jax.main', *folder.arguments(cell)]
    assert folder.log(cell, 'exit').read_text() == '143\n' and folder.log(cell).read_text() == 'time is up\n'
    assert sorted(path.suffix for path in (tmp_path / 'table' / 'logs').iterdir()) == [
        '.args',
        '.exit',
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
