"""Damaged lists of the benchmarks are read or refused.

`SREML_FUZZ=100 python -m pytest -s -n0 tests/fuzz/test_annotations_fuzz.py` tries 100 times as many.
"""

import pytest
from support import annotations, fuzz

from sreml_jax.data.sources import car, cub, isc, sop

LISTS = {
    'images.txt': (annotations.make_cub, cub, 'CUB_200_2011/images.txt', 150),
    'boxes': (annotations.make_cub, cub, 'CUB_200_2011/bounding_boxes.txt', 150),
    'Ebay_train.txt': (annotations.make_sop, sop, 'Stanford_Online_Products/Ebay_train.txt', 150),
    'partition': (annotations.make_isc, isc, 'Eval/list_eval_partition.txt', 150),
    'mat': (annotations.make_car, car, 'devkit/cars_train_annos.mat', 6),  # a process each
}


@pytest.mark.parametrize('name', LISTS)
def test_damaged_lists(name, tmp_path):
    make, source, path, number = LISTS[name]
    make(tmp_path)
    content = (tmp_path / path).read_bytes()

    def read(damaged):
        (tmp_path / path).write_bytes(damaged)
        for examples in source.find_examples(tmp_path).values():
            assert all(example.path.is_relative_to(tmp_path) for example in examples)

    assert fuzz.count(read, fuzz.cases([content], number))['refused']
