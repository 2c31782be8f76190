"""Damaged archives are unpacked or refused; nothing is left over or written elsewhere.

`SREML_FUZZ=100 python -m pytest -s -n0 tests/fuzz/test_archives_fuzz.py` tries 100 times as many.
"""

import gzip
import io
import shutil
import tarfile
import zipfile

import pytest
from support import fuzz

from sreml_jax.data.sources import archives

FILES = {f'birds/{i}.jpg': bytes([i]) * 700 for i in range(4)}


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.filterwarnings('ignore::UserWarning:zipfile')
@pytest.mark.parametrize(
    ('suffix', 'content', 'pack'), [('.tgz', tar, gzip.compress), ('.zip', zipped, bytes)]
)
def test_damaged_archives(suffix, content, pack, tmp_path):
    own = tmp_path / 'own'
    own.mkdir()

    def read(damaged):
        (own / f'birds{suffix}').write_bytes(pack(damaged))
        shutil.rmtree(own / 'birds', ignore_errors=True)
        try:
            archives.unpack(own, ['birds'])
        finally:
            assert {p.name for p in own.iterdir()} <= {'birds', f'birds{suffix}'} and [
                *tmp_path.iterdir()
            ] == [own]

    assert fuzz.count(read, fuzz.cases([content()], 200))['refused']
