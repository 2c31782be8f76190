"""How much memory is free, under the limit of a container."""

import pytest

from sreml_jax.runtime import machine


def write(group, names, limit, used, cached):
    """Writes the files of a container whose limit, use and unused cached files are these."""
    (group / names[0]).parent.mkdir(parents=True, exist_ok=True)
    (group / names[0]).write_text(str(limit))
    (group / names[1]).write_text(str(used))
    (group / names[1]).with_name('memory.stat').write_text(f'anon 5\n{names[2]} {cached}\nfile 3\n')


@pytest.mark.parametrize(
    'names',
    [
        ('memory.max', 'memory.current', 'inactive_file'),
        ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes', 'total_inactive_file'),
    ],
    ids=['version 2', 'version 1'],
)
def test_the_limit_of_a_container_counts_without_cached_files(tmp_path, monkeypatch, names):
    monkeypatch.setattr(machine, '_GROUP', tmp_path)
    everything = machine.free_memory()
    assert everything > 0
    write(tmp_path, names, limit=4 * 2**20, used=3 * 2**20, cached=2**20)
    assert machine.free_memory() == 2 * 2**20
    write(tmp_path, names, limit=2**20, used=3 * 2**20, cached=2**20)
    assert machine.free_memory() == 1  # 0 is for what the system does not say
    write(tmp_path, names, limit='max', used=3 * 2**30, cached=0)
    assert machine.free_memory() > everything / 2
