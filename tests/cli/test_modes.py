"""In which order a mode looks for what is wrong."""

import pytest
from support.runs import folder_of
from support.tiny import tiny_config

from sreml_jax.cli import modes
from sreml_jax.model.weights import hub
from sreml_jax.runtime.errors import UserError


def test_faults_of_the_images_are_said_before_weights_are_fetched(monkeypatch, tmp_path):
    def fetch(_):
        raise UserError('the hub was asked')

    monkeypatch.setattr(hub, 'fetch', fetch)
    bad, photos = tmp_path / 'bad.csv', folder_of(tmp_path / 'photos')
    bad.write_text('file,name\na.jpg,bird\n')
    for place, name, sentence in (
        (bad, 'folder', 'bad.csv has no column path and label, only file, name; rename its columns'),
        (photos / 'train' / 'train0', 'folder', 'has no class folders'),
        (photos, 'cub', 'cub'),
        (photos, 'folder', 'the hub was asked'),
    ):
        config = tiny_config(
            data_name=name, data_dir=str(place), weights='imagenet', prepared_dir=str(tmp_path / 'prepared')
        )
        with pytest.raises(UserError, match=sentence):
            modes.train(modes.Job(config, tmp_path / 'run', None))
    assert not (tmp_path / 'prepared').exists() and not (tmp_path / 'run').exists()
