"""metrics.jsonl across interruptions, and progress without a terminal."""

import json

from sreml_jax.writer import Progress, Writer, keep_until


def test_lines_after_the_resumed_step_come_once(tmp_path):
    writer = Writer(tmp_path, 0)
    for step in range(1, 6):
        writer.write(step, {'loss': step / 2})
    writer.close()
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 6, "lo')  # killed while writing
    writer = Writer(tmp_path, 3)
    writer.write(4, {'loss': 7.0})
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert lines == [*({'step': s, 'loss': s / 2} for s in (1, 2, 3)), {'step': 4, 'loss': 7.0}]
    assert list(tmp_path.glob('tensorboard/events*'))


def test_keeping_nothing(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n')
    keep_until(path, 0)
    assert path.read_text() == ''


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys):
    progress = Progress(total=4, first_step=0, batch_size=8, steps_per_epoch=2)
    for step in (1, 2, 3, 4):
        progress.show(step, {'loss': float(step)})
    progress.close()
    first, last = capsys.readouterr().out.splitlines()
    assert first == 'step 1/4  epoch 1/2  loss 1.0000'
    assert last.startswith('step 4/4  epoch 2/2  loss 2.5000') and 'images/s' in last
