"""The kernels of a compiled GPU program, read from its text: kinds, places and bytes."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

NAMES = {1: 'pred s8 u8', 2: 'bf16 f16', 4: 's32 u32 f32', 8: 's64 u64 f64'}
SIZES = {name: size for size, names in NAMES.items() for name in names.split()}  # bytes of an element
SHAPE = re.compile(rf'\b({"|".join(SIZES)})\[([\d,]*)\]')
ADAM, REST = 'Adam and casts', 'BatchNorm, relu, shortcuts, rest'
NO_KERNEL = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'}


class Kernel(NamedTuple):
    """A kernel: its kind, its part of the step, and the bytes of its operands and results.

    `of_relu`: those that a convolution's gradient reads and writes for relu and BatchNorm besides.
    """

    what: str
    where: str
    nbytes: int
    of_relu: int = 0


def kernels(program: str) -> Iterator[Kernel]:
    """Yields the kernels of a compiled program's entry computation, from its text."""
    bodies = dict(re.findall(r'^%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}', program, re.M | re.S))
    entry = re.search(r'^ENTRY [^\n]*\{\n(.*?)^\}', program, re.M | re.S)
    if not entry:
        raise ValueError('the program has no entry computation')
    shapes: dict[str, str] = {}
    for line in entry[1].splitlines():
        if not (found := re.match(r'\s*(?:ROOT )?%?([\w.\-]+) = (.*)', line)):
            continue
        name, rest = found.groups()
        shapes[name], rest = split_shape(rest)
        opcode, _, rest = rest.partition('(')
        if opcode in NO_KERNEL:
            continue
        operands = re.findall(r'%([\w.\-]+)', rest.partition(')')[0])
        what = opcode
        if target := re.search(r'custom_call_target="([^"]+)"', rest):
            what = target[1]
        elif opcode == 'fusion':
            calls = re.search(r'calls=%?([\w.\-]+)', rest)
            has_product = calls and ' dot(' in bodies.get(calls[1], '')
            what = 'product, fused' if has_product else re.sub(r'[.\d_]+$', '', name)
        op_name = re.search(r'op_name="([^"]+)"', rest)
        moved = nbytes(shapes[name]) + sum(nbytes(shapes.get(operand, '')) for operand in operands)
        of_relu = 0
        if op_name and '/relu_gradient/' in op_name[1]:  # a product has two operands and one result
            product = [*(shapes.get(operand, '') for operand in operands[:2]), SHAPE.search(shapes[name])[0]]
            of_relu = moved - sum(map(nbytes, product))
        yield Kernel(what, place_of(op_name[1] if op_name else ''), moved, of_relu)


def split_shape(text: str) -> tuple[str, str]:
    """Splits 'shape opcode(...)' at the first space outside brackets."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter in '([{') - (letter in ')]}')
        if letter == ' ' and not depth:
            return text[:at], text[at + 1 :]
    return text, ''


def nbytes(shape: str) -> int:
    """Returns the bytes of a shape, or of all shapes of a tuple."""
    return sum(
        SIZES[dtype] * math.prod(int(n) for n in dims.split(',') if n) for dtype, dims in SHAPE.findall(shape)
    )


def place_of(op_name: str) -> str:
    """Returns direction, stage and kind of layer of an operation's name: 'backward, layer3, bn'."""
    if 'jvp(' not in op_name:
        return ADAM
    stage = re.search(r'trunk|layer[234]|fc', op_name)
    units = re.findall(r'(?<=/)(?:downsample_)?(conv|bn|fc|relu)\d?(?=[./])', op_name)
    unit = units[-1] if units else 'relu'  # relu may be a part of the convolution that reads it
    direction = 'backward' if 'transpose(jvp' in op_name else 'forward'
    return f'{direction}, {stage[0] if stage else "rest"}, {"shortcut, relu" if unit == "relu" else unit}'


def parts_of(found: Iterable[Kernel]) -> dict[str, int]:
    """Returns the bytes of kernels by three parts of the step."""
    parts = dict.fromkeys(('convolutions', REST, ADAM), 0)
    for kernel in found:
        part = ADAM if kernel.where == ADAM else 'convolutions' if kernel.where.endswith('conv') else REST
        parts[part] += kernel.nbytes - kernel.of_relu
        parts[REST] += kernel.of_relu
    return parts
