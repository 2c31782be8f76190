"""metrics.jsonl across interruptions, and progress without a terminal."""

import errno
import json
from pathlib import Path

import pytest

from sreml_jax.runtime.errors import RunError
from sreml_jax.training import writer
from sreml_jax.training.epochs import Epochs
from sreml_jax.training.writer import Progress, Writer, keep_until


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


class FullDisk:
    """A file of which only `room` more bytes fit on the disk, until there is room again."""

    def __init__(self, room):
        self.content, self.room = b'', room

    def write(self, content):
        if not self.room:
            raise OSError(errno.ENOSPC, 'No space left on device')
        self.content += content[: self.room]
        written = min(self.room, len(content))
        self.room -= written
        return written

    def close(self):
        pass


def test_lines_that_find_no_room_on_the_disk_come_later_and_once(tmp_path, caplog):
    writer = Writer(tmp_path, 0)
    writer._lines.close()
    disk = writer._lines = FullDisk(30)
    for step in range(1, 5):
        writer.write(step, {'loss': step / 2})
    assert 0 < disk.content.count(b'\n') < 4
    assert caplog.text.count('cannot be written (No space left on device)') == 1
    disk.room = 10_000
    writer.write(5, {'loss': 2.5})
    writer.close()
    assert [json.loads(line) for line in disk.content.splitlines()] == [
        {'step': step, 'loss': step / 2} for step in range(1, 6)
    ]


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='a full disk, as Linux has it')
def test_a_disk_that_is_full_from_the_start_is_reported_and_spoils_nothing(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / 'metrics.jsonl.tmp').symlink_to('/dev/full')
    with pytest.raises(RunError, match=r'metrics\.jsonl cannot be written \(No space left on device\); make'):
        Writer(tmp_path, 1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_folder_that_tensorboard_cannot_have_is_reported(tmp_path):
    (tmp_path / 'tensorboard').write_text('')
    with pytest.raises(RunError, match=r'tensorboard cannot be written \(Not a directory\); make room'):
        Writer(tmp_path, 0)


def test_a_thread_of_tensorboards_that_died_stops_no_run(tmp_path, caplog):
    writer = Writer(tmp_path, 0)
    writer._board.file_writer.event_writer._worker.stop()
    for step in range(1, 30):  # its queue holds ten
        writer.write(step, {'loss': 1.0})
    writer.close()
    assert caplog.text.count('the curves for TensorBoard end before step 1') == 1
    assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 29


def test_keeping_nothing(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n')
    keep_until(path, 0)
    assert path.read_text() == ''


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys):
    progress = Progress(Epochs(number=2, steps=2), first_step=0, batch_size=8)
    for step in (1, 2, 3, 4):
        progress.show(step, {'loss': float(step)})
    progress.close()
    first, last = capsys.readouterr().out.splitlines()
    assert first == 'step 1/4  epoch 1/2  loss 1.0000'
    assert last.startswith('step 4/4  epoch 2/2  loss 2.5000') and 'images/s' in last


@pytest.mark.parametrize('line', ['{}', '5', '[]', '{"step": "a"}', 'null'])
def test_a_line_of_another_kind_ends_what_is_kept(line, tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    keep_until(path, 9)
    assert path.read_text() == '{"step": 1}\n'


def test_tensorboard_gets_what_is_finite_and_drops_what_comes_again(tmp_path, monkeypatch):
    made, scalars = [], []

    class Board(writer.SummaryWriter):
        def __init__(self, folder, purge_step):
            made.append(purge_step)
            super().__init__(folder, purge_step=purge_step)

        def add_scalar(self, name, value, step):
            scalars.append((name, value, step))

    monkeypatch.setattr(writer, 'SummaryWriter', Board)
    kept = Writer(tmp_path, 3)
    kept.write(4, {'loss': 7.0, 'accuracy': float('nan')})
    kept.close()
    assert made == [4] and scalars == [('loss', 7.0, 4)]
