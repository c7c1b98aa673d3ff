"""Run on the mock device: compares values of the emulator's ops with the vendor's golden functions.

Prints a line per op and dtype: its public name, the dtype, and the Pearson correlation (1 where all is equal).
"""

import torch

import models.common.ttnn_emulator as emulator
import ttnn as vendor
from models.common.mesh import open_mesh

# Public name: (shapes of the inputs, arguments after them, keywords). The shapes are Phi-3-mini's.
CASES = {
    "add": ([(1, 1, 32, 3072)] * 2, (), {}),
    "subtract": ([(1, 1, 32, 3072)] * 2, (), {}),
    "multiply": ([(1, 1, 32, 8192), (1, 1, 32, 8192)], (), {}),
    "mul": ([(1, 1, 32, 8192), (1, 1, 32, 1)], (), {}),
    "div": ([(1, 1, 32, 3072)] * 2, (), {}),
    "rsub": ([(1, 1, 32, 3072)] * 2, (), {}),
    "eq": ([(1, 1, 32, 3072)] * 2, (), {}),
    "gt": ([(1, 1, 32, 3072)] * 2, (), {}),
    "silu": ([(1, 1, 32, 8192)], (), {}),
    "gelu": ([(1, 1, 32, 8192)], (), {}),
    "relu": ([(1, 1, 32, 8192)], (), {}),
    "exp": ([(1, 1, 32, 3072)], (), {}),
    "neg": ([(1, 1, 32, 3072)], (), {}),
    "abs": ([(1, 1, 32, 3072)], (), {}),
    "square": ([(1, 1, 32, 3072)], (), {}),
    "sigmoid": ([(1, 1, 32, 3072)], (), {}),
    "tanh": ([(1, 1, 32, 3072)], (), {}),
    "reciprocal": ([(1, 1, 32, 3072)], (), {}),
    "softmax": ([(1, 8, 32, 128)], (), {"dim": -1}),
    "sum": ([(1, 1, 32, 3072)], (), {"dim": -1, "keepdim": True}),
    "mean": ([(1, 1, 32, 3072)], (), {"dim": -1, "keepdim": True}),
    "max": ([(1, 1, 32, 3072)], (), {"dim": -1, "keepdim": True}),
    "min": ([(1, 1, 32, 3072)], (), {"dim": -1, "keepdim": True}),
    "argmax": ([(1, 1, 32, 32064)], (), {"dim": 3}),
    "permute": ([(1, 128, 8, 96)], ((0, 2, 1, 3),), {}),
    "transpose": ([(1, 1, 64, 96)], (-2, -1), {}),
    "reshape": ([(1, 1, 32, 3072)], ((1, 32, 32, 96),), {}),
    "slice": ([(1, 1, 128, 3072)], ((0, 0, 96, 0), (1, 1, 128, 3072)), {}),
    "pad": ([(1, 1, 5, 70)], ([(0, 0), (0, 0), (0, 27), (0, 26)], 0.0), {}),
    "unsqueeze_to_4D": ([(32, 96)], (), {}),
    "repeat": ([(1, 1, 32, 96)], ((1, 8, 1, 1),), {}),
    "clone": ([(1, 1, 32, 3072)], (), {}),
}


def correlation(a, b):
    if tuple(a.shape) != tuple(b.shape):
        raise AssertionError(f"shapes {list(a.shape)} and {list(b.shape)}")
    a, b = a.double().flatten(), b.double().flatten()
    return 1.0 if torch.equal(a, b) else torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def compare(device, name, dtype):
    shapes, arguments, keywords = CASES[name]
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    expected = vendor.get_golden_function(getattr(vendor, name))(*inputs, *arguments, **keywords)
    tensors = [emulator.from_torch(value, layout=emulator.TILE_LAYOUT, device=device) for value in inputs]
    actual = emulator.to_torch(getattr(emulator, name)(*tensors, *arguments, **keywords))
    if actual.dtype in (torch.uint32, torch.uint16):
        actual = actual.to(torch.int64)
    return correlation(actual, expected)


def compare_lists(device, dtype):
    """Compares concat and topk, which take or return lists."""
    a, b = torch.randn(1, 1, 32, 64).to(dtype), torch.randn(1, 1, 32, 96).to(dtype)
    tensors = [emulator.from_torch(value, layout=emulator.TILE_LAYOUT, device=device) for value in (a, b)]
    golden = vendor.get_golden_function(vendor.concat)
    yield "concat", correlation(emulator.to_torch(emulator.concat(tensors, dim=3)), golden([a, b], 3))
    values, _ = vendor.get_golden_function(vendor.topk)(b, 32, -1, True, True)
    own, indices = emulator.topk(tensors[1], 32)
    yield "topk", correlation(emulator.to_torch(own), values)
    picked = b.gather(-1, emulator.to_torch(indices).to(torch.int64))
    yield "topk indices", correlation(picked, values)


def main():
    torch.manual_seed(0)
    with open_mesh():
        device = emulator.open_mesh_device(emulator.MeshShape(1, 1))
        for dtype in (torch.bfloat16, torch.float32):
            for name in CASES:
                print(name, str(dtype).removeprefix("torch."), compare(device, name, dtype), sep="\t")
            for name, value in compare_lists(device, dtype):
                print(name, str(dtype).removeprefix("torch."), value, sep="\t")


if __name__ == "__main__":
    main()
