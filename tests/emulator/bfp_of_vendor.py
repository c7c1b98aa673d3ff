"""Run on the mock device: saves values, and these values rounded by the vendor's ttnn, to the file given as argument.

The file holds a list of (description, values, {"bfloat8_b": rounded, "bfloat4_b": rounded}).
"""

import sys

import models  # noqa: F401
import torch
import ttnn

from models.common.mesh import open_mesh

SHAPE = (512, 1024)


def samples():
    normal = torch.randn(SHAPE)
    yield "normal", normal
    yield "mixed magnitude", normal * torch.exp2(torch.randint(-20, 20, SHAPE).float())
    yield "neighbouring magnitudes", normal * torch.exp2(torch.randint(-3, 3, SHAPE).float())
    yield "tiny", normal * 1e-37
    yield "subnormal", normal * 1e-40
    yield "huge", normal * 1e38
    yield "ties", torch.randint(-256, 256, SHAPE).float() / 2
    zeros = torch.where(torch.rand(SHAPE) < 0.5, 0.0, normal)
    yield "zeros of both signs", torch.where(torch.rand(SHAPE) < 0.3, -0.0, zeros)
    bits = torch.randint(-(2**31), 2**31 - 1, SHAPE, dtype=torch.int32).view(torch.float32)
    yield "any finite bits", torch.where(bits.isfinite(), bits, 1.0)
    yield "infinities", torch.where(torch.rand(SHAPE) < 0.02, torch.inf * normal.sign(), normal)
    yield "not numbers", torch.where(torch.rand(SHAPE) < 0.02, torch.nan, normal)
    yield "partial tiles", torch.randn(37, 117)
    yield "a partial block", torch.randn(3, 5)


def main(path):
    torch.manual_seed(0)
    saved = []
    with open_mesh():
        for what, values in samples():
            for each in (values, values.bfloat16()):
                rounded = {}
                for name in ("bfloat8_b", "bfloat4_b"):
                    packed = ttnn.from_torch(each, dtype=getattr(ttnn, name), layout=ttnn.TILE_LAYOUT)
                    rounded[name] = ttnn.to_torch(packed).float()
                saved.append((f"{what}, {each.dtype}", each, rounded))
    torch.save(saved, path)


if __name__ == "__main__":
    main(sys.argv[1])
