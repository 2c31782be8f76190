"""launch/table.py: what it runs, how it goes on, and the tables that it prints; a stub trains nothing."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import table
import table_text
from support.paths import ROOT, SHARED
from support.tables import run, wait_for
from table_cells import Cell, Folder, State

SEED = SHARED / 'seed' / 'SREML_README.md'
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


def test_a_dataset_that_is_not_there_is_said_once(tmp_path, capsys, monkeypatch):
    class NoData:
        """A folder whose cells all end for want of In-shop."""

        started: ClassVar[list] = []

        def log(self, cell):
            return tmp_path / 'log'

        def start(self, cell, lock):
            self.started.append(cell)
            return SimpleNamespace(pid=1, returncode=2, poll=lambda: 2)

        def end(self, cell, code):
            reason = 'no copy of isc lies in data: fetch it' if cell.dataset == 'isc' else 'something else'
            return State('failed', reason=reason)

    monkeypatch.setattr(table.signal, 'signal', lambda *_: None)
    cells = [Cell(data, 'uncropped', b) for b in ('resnet18', 'resnet34') for data in ('isc', 'sop')]
    with table.locked(tmp_path) as lock:
        table.run(NoData(), cells, lock)
    assert NoData.started == [cells[0], cells[1], cells[3]]
    assert capsys.readouterr().err.count('no copy of isc') == 1


def test_stopped_resumed_and_a_cell_that_failed(tmp_path):
    (tmp_path / 'stub.py').write_text(STUB)
    program, table = f'{sys.executable} {tmp_path / "stub.py"}', tmp_path / 'table'
    arguments = [f'--folder={table}', '--backbones=resnet18', '--crops=uncropped', '--datasets=car,cub,sop']
    arguments += ['--config.learning_rate=0.75', '--config.ensemble_size=1']

    first = run(*arguments, program=program)
    wait_for(table / 'sop-uncropped-resnet18' / 'ready')
    second = run(*arguments, program=program)
    printed = second.communicate(timeout=60)[1]
    assert f'still under way; wait for it, or end it: kill {first.pid}, or, if only' in printed
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
    output = run(*arguments, '--config.batch_size=6').communicate(timeout=60)[0]
    assert output.splitlines() == [
        f'python -m sreml_jax.main --config=configs/car.py --workdir={done.parents[1]}/car-cropped-resnet18 '
        '--config.model_type=resnet18 --config.crop_type=cropped --config.batch_size=6',
    ]
    output = run(*arguments, '--slurm').communicate(timeout=60)[0]
    assert output.startswith('sbatch --array=0-0 ') and output.endswith('/logs car-cropped-resnet18\n')


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
    printed = by_hand.communicate(timeout=60)[1]
    assert 'is still under way; wait for it, or end it: scancel its jobs' in printed
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
