"""The counts of `bench compile`, on the text of a small program counted by hand."""
# ruff: noqa: E501, the lines of a program are long

import argparse

import compile as subject
import kernels
import pytest

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_computation (p0: bf16[8,16], p1: bf16[16,4]) -> bf16[8,4] {
  %p0 = bf16[8,16]{1,0} parameter(0)
  %p1 = bf16[16,4]{1,0} parameter(1)
  ROOT %dot.1 = bf16[8,4]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%fused_add (q0: f32[4,4]) -> (f32[4,4], pred[]) {
  %q0 = f32[4,4]{1,0} parameter(0)
  %c = pred[] constant(true)
  ROOT %t = (f32[4,4]{1,0}, pred[]) tuple(%q0, %c)
}

ENTRY %main (a: bf16[8,16], b: bf16[16,4], w: f32[4,4]) -> (f32[4,4], pred[]) {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,4]{1,0} parameter(1)
  %w = f32[4,4]{1,0} parameter(2)
  %gemm_fusion.3 = bf16[8,4]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused_computation, metadata={op_name="jit(step)/jvp(Ensemble)/members/layer3/0/conv1/dot"}
  %cudnn-conv.2 = (bf16[8,4]{1,0}, u8[100]{0}) custom-call(%gemm_fusion.3, %b), custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/transpose(jvp(Ensemble))/members/layer2/1/downsample_conv/conv"}
  %get-tuple-element.1 = bf16[8,4]{1,0} get-tuple-element(%cudnn-conv.2), index=0
  %copy.7 = bf16[8,4]{0,1} copy(%get-tuple-element.1), metadata={op_name="jit(step)/jvp(Ensemble)/trunk/bn1/copy"}
  ROOT %loop_add_fusion.12 = (f32[4,4]{1,0}, pred[]) fusion(%w), kind=kLoop, calls=%fused_add, metadata={op_name="jit(step)/add"}
}
"""


def test_kernels_of_a_program():
    a, b, y, w = 8 * 16 * 2, 16 * 4 * 2, 8 * 4 * 2, 4 * 4 * 4  # bytes of each array
    assert list(kernels.kernels(PROGRAM)) == [
        ('product, fused', 'forward, layer3, conv', a + b + y, 0),
        ('__cudnn$convForward', 'backward, layer2, conv', y + b + y + 100, 0),
        ('copy', 'forward, trunk, bn', y + y, 0),
        ('loop_add_fusion', 'Adam and casts', w + w + 1, 0),
    ]


def test_a_program_without_entry_is_refused():
    with pytest.raises(ValueError, match='no entry'):
        list(kernels.kernels('HloModule nothing'))


def test_parts_of_the_bytes():
    places = {
        'Adam and casts': 1, 'backward, layer4, conv': 2, 'forward, rest, shortcut, relu': 4, 'forward, fc, fc': 8,
        'forward, layer2, bn': 16,
    }  # fmt: skip
    found = [kernels.Kernel('', place, size) for place, size in places.items()]
    found.append(kernels.Kernel('', 'backward, layer2, conv', 96, 64))
    assert list(kernels.parts_of(found).values()) == [2 + 32, 4 + 8 + 16 + 64, 1]


def test_what_a_gradient_moves_for_relu_is_counted_apart():
    program = """ENTRY %main (dy: bf16[8,4], w: bf16[16,4], x: bf16[8,16], f: f32[16]) -> bf16[8,16] {
  %dy = bf16[8,4]{1,0} parameter(0)
  %w = bf16[16,4]{1,0} parameter(1)
  %x = bf16[8,16]{1,0} parameter(2)
  %f = f32[16]{0} parameter(3)
  %call.1 = (bf16[8,16]{1,0}, f32[1,16]{1,0}) custom-call(%dy, %w, %x, %f), custom_call_target="triton_kernel_call", metadata={op_name="transpose(jvp(Ensemble))/layer2/1/conv2/relu_gradient/triton_kernel_call"}
}
"""
    dy, w, x, f = 8 * 4 * 2, 16 * 4 * 2, 8 * 16 * 2, 16 * 4
    assert list(kernels.kernels(program)) == [
        ('triton_kernel_call', 'backward, layer2, conv', dy + w + x + x + f + f, x + f + f)
    ]


@pytest.mark.parametrize(
    ('name', 'place'),
    [
        ('jvp(Ensemble)/vmap(members)/layer2/1/conv2/triton_kernel_call', 'forward, layer2, conv'),
        ('jvp(Ensemble)/vmap(members)/layer2/1/conv2/relu/max', 'forward, layer2, shortcut, relu'),
        ('transpose(jvp(Ensemble))/vmap(members)/layer3/0/downsample_bn/mul', 'backward, layer3, bn'),
        ('jvp(Ensemble)/trunk/layer1/0/bn1/convert_element_type', 'forward, trunk, bn'),
        ('jvp(Ensemble)/layer2/1/bn1.before_relu/bn1._operands/mul', 'forward, layer2, bn'),
        ('transpose(jvp(Ensemble))/trunk/max', 'backward, trunk, shortcut, relu'),
    ],
)
def test_places_of_operations(name, place):
    assert kernels.place_of(name) == place


def test_the_config_is_the_one_of_the_flags():
    flags = {'model_type': 'resnet34', 'members': 6, 'batch': 4, 'size': 64, 'dtype': 'float32'}
    config = subject.config_of(argparse.Namespace(**flags, conv='grouped', remat=True))
    assert (config.model_type, config.ensemble_size, config.batch_size) == ('resnet34', 6, 4)
    assert (config.image_size, config.dtype, config.member_conv, config.remat) == (
        64,
        'float32',
        'grouped',
        True,
    )
