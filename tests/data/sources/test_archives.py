"""Unpacking: once, safely, all or nothing."""

import gzip
import io
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest

from sreml_jax.data.sources import archives
from sreml_jax.runtime.errors import UserError

BYTES = np.random.default_rng(0).bytes(20_000)  # incompressible, so that a cut anywhere cuts a member
MEMBERS = {f'birds/images/{i}.jpg': BYTES[: 512 * i] for i in range(5)} | {'stray.txt': b'stray'}


def write_tgz(file, members):
    with tarfile.open(file, 'w:gz') as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_zip(file, members):
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


WRITERS = {'.tgz': write_tgz, '.tar.gz': write_tgz, '.zip': write_zip}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('suffix', WRITERS)
def test_folder_of_the_archives_name_is_kept_and_nothing_else(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f'birds{suffix}', MEMBERS)
    archives.unpack(tmp_path, ['fish', 'birds'])
    assert contents(tmp_path / 'birds') == {f'images/{i}.jpg': BYTES[: 512 * i] for i in range(5)}
    assert names(tmp_path) == ['birds', f'birds{suffix}']


@pytest.mark.parametrize('suffix', WRITERS)
def test_archive_without_such_a_folder_gets_one(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f'birds{suffix}', {'list.txt': b'1', 'images/1.jpg': b'2'})
    archives.unpack(tmp_path, ['birds'])
    assert contents(tmp_path / 'birds') == {'list.txt': b'1', 'images/1.jpg': b'2'}


def test_what_is_there_is_left_alone(tmp_path):
    write_zip(tmp_path / 'birds.zip', MEMBERS)
    (tmp_path / 'birds').mkdir()
    archives.unpack(tmp_path, ['birds'])
    assert not contents(tmp_path / 'birds')


def member(name, kind=tarfile.REGTYPE, target=''):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    'bad',
    [
        [member('../evil')],
        [member('birds/../../evil')],
        [member('/tmp/evil')],
        [member('birds/link', tarfile.SYMTYPE, '/')],
        [member('birds/link', tarfile.SYMTYPE, 'images')],
        [member('birds/link', tarfile.SYMTYPE, '../..'), member('birds/link/evil')],
        [member('birds/link', tarfile.LNKTYPE, 'birds/good.jpg')],
        [member('birds/device', tarfile.CHRTYPE)],
        [member('birds/pipe', tarfile.FIFOTYPE)],
    ],
    ids=lambda bad: f'{bad[0].name}-{bad[0].type.decode()}-{bad[0].linkname}',
)
def test_unsafe_tar_is_refused(tmp_path, bad):
    with tarfile.open(tmp_path / 'birds.tgz', 'w:gz') as tar:
        for info in [member('birds/good.jpg'), *bad]:
            tar.addfile(info)
    with pytest.raises(UserError, match=r'birds\.tgz is not safe to unpack.*(leads out|link or a device)'):
        archives.unpack(tmp_path, ['birds'])
    assert names(tmp_path) == ['birds.tgz']
    assert not (tmp_path.parent / 'evil').exists()


@pytest.mark.parametrize('name, mode', [('../evil', 0), ('/tmp/evil', 0), ('birds/link', 0o120777)])
def test_unsafe_zip_is_refused(tmp_path, name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / 'birds.zip', 'w') as archive:
        archive.writestr('birds/good.jpg', b'')
        archive.writestr(info, '/')
    with pytest.raises(UserError, match=r'birds\.zip is not safe to unpack.*(leads out|link or a device)'):
        archives.unpack(tmp_path, ['birds'])
    assert names(tmp_path) == ['birds.zip']


def refused(folder, message):
    with pytest.raises(UserError, match=message):
        archives.unpack(folder, ['birds'])
    assert len(names(folder)) == 1  # the archive
    assert str(names(folder)).isprintable()


@pytest.mark.parametrize('suffix', ['.tgz', '.zip'])
@pytest.mark.parametrize('name', ['birds/nul\0.jpg', 'a/' * 1_500 + 'x.jpg', 'birds/\x1b[31m.jpg'])
def test_names_that_no_photograph_has_are_refused(tmp_path, suffix, name):
    WRITERS[suffix](tmp_path / f'birds{suffix}', {'birds/good.jpg': b'x', name.replace('\0', '?'): b'x'})
    if '\0' in name and suffix == '.zip':  # zipfile writes none, and cuts those that it reads
        return
    if '\0' in name:
        content = gzip.decompress((tmp_path / 'birds.tgz').read_bytes())
        info = tarfile.TarInfo('birds/x.jpg')
        info.pax_headers = {'path': name}
        assert content
        with tarfile.open(tmp_path / 'birds.tgz', 'w:gz', format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(info)
    refused(tmp_path, r'birds\.(tgz|zip) (is not safe to unpack|is damaged)')


def test_an_empty_name_in_a_zip_is_refused(tmp_path):
    write_zip(tmp_path / 'birds.zip', {'x': b'1'})
    content = bytearray((tmp_path / 'birds.zip').read_bytes())
    for header, length, start in ((b'PK\x03\x04', 26, 30), (b'PK\x01\x02', 28, 46)):
        at = content.index(header)
        content[at + length] = 0
        del content[at + start]
    end = content.index(b'PK\x05\x06')
    for at in (end + 12, end + 16):  # size and place of the table of contents
        content[at] -= 1
    (tmp_path / 'birds.zip').write_bytes(content)
    refused(tmp_path, r'birds\.zip (is not safe to unpack|is damaged)')


@pytest.mark.parametrize('time', ['nan', 'inf', '1e300'])
def test_times_that_are_none_are_refused(tmp_path, time):
    info = member('birds/x.jpg')
    info.pax_headers = {'mtime': time}
    with tarfile.open(tmp_path / 'birds.tgz', 'w:gz', format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    refused(tmp_path, 'damaged')


@pytest.mark.parametrize('suffix', ['.tgz', '.zip'])
def test_an_archive_that_expands_beyond_measure_is_refused(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(archives, 'SMALL', 10**7)
    WRITERS[suffix](tmp_path / f'birds{suffix}', {f'birds/{i}.jpg': bytes(10**7) for i in range(5)})
    assert (tmp_path / f'birds{suffix}').stat().st_size < 10**5
    refused(tmp_path, r'not safe to unpack, since its member .* makes it \d\d,000,000 bytes')


def test_an_archive_without_room_is_refused(tmp_path, monkeypatch):
    write_tgz(tmp_path / 'birds.tgz', MEMBERS)
    usage = shutil.disk_usage(tmp_path)._replace(free=4_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    refused(tmp_path, 'needs more than the 4,000 bytes that are free')


def test_zip_with_a_password_is_reported(tmp_path):
    write_zip(tmp_path / 'birds.zip', {'birds/1.jpg': b'1'})
    content = bytearray((tmp_path / 'birds.zip').read_bytes())
    content[content.index(b'PK\x01\x02') + 8] |= 1  # the flag, in the table of contents
    (tmp_path / 'birds.zip').write_bytes(content)
    with pytest.raises(UserError, match=r'birds\.zip is locked by a password'):
        archives.unpack(tmp_path, ['birds'])


@pytest.mark.parametrize('suffix', ['.tgz', '.zip'])
def test_archive_cut_anywhere_is_refused(tmp_path, suffix):
    archive = tmp_path / f'birds{suffix}'
    WRITERS[suffix](archive, MEMBERS)
    whole = archive.read_bytes()
    for size in [0, 1, *range(100, len(whole), 97), len(whole) - 1]:
        archive.write_bytes(whole[:size])
        with pytest.raises(UserError, match='damaged or incomplete'):
            archives.unpack(tmp_path, ['birds'])
        assert names(tmp_path) == [archive.name]


@pytest.mark.parametrize('suffix', ['.tgz', '.zip'])
def test_archive_with_a_wrong_byte_is_refused(tmp_path, suffix):
    archive = tmp_path / f'birds{suffix}'
    WRITERS[suffix](archive, MEMBERS)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match='damaged or incomplete'):
        archives.unpack(tmp_path, ['birds'])
    assert names(tmp_path) == [archive.name]


def test_folder_that_cannot_be_written_to_is_reported(tmp_path, monkeypatch):
    write_zip(tmp_path / 'birds.zip', MEMBERS)

    def refuse(self):
        raise PermissionError(13, 'Permission denied', str(self))

    monkeypatch.setattr('pathlib.Path.mkdir', refuse)
    with pytest.raises(
        UserError, match=rf'Cannot unpack .*birds\.zip \(Permission denied\): see that {tmp_path}'
    ):
        archives.unpack(tmp_path, ['birds'])


def start_unpacking(folder):
    code = (
        'import sys; from pathlib import Path; from sreml_jax.data.sources import archives; '
        "archives.unpack(Path(sys.argv[1]), ['birds'])"
    )
    return subprocess.Popen([sys.executable, '-c', code, str(folder)])


def big_archive(folder):
    write_tgz(folder / 'birds.tgz', {f'birds/{i}.jpg': BYTES for i in range(1000)})


def test_killed_half_way_counts_as_not_done_and_the_next_completes_it(tmp_path):
    big_archive(tmp_path)
    process = start_unpacking(tmp_path)
    while not (tmp_path / '.birds.unpacking' / 'birds' / '10.jpg').exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'birds').exists()
    archives.unpack(tmp_path, ['birds'])
    assert contents(tmp_path / 'birds') == {f'{i}.jpg': BYTES for i in range(1000)}
    assert names(tmp_path) == ['birds', 'birds.tgz']


def test_of_two_processes_one_waits(tmp_path):
    big_archive(tmp_path)
    processes = [start_unpacking(tmp_path) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert contents(tmp_path / 'birds') == {f'{i}.jpg': BYTES for i in range(1000)}
    assert names(tmp_path) == ['birds', 'birds.tgz']
