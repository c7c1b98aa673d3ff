"""Run on the mock device: as `values_like_golden`, for matmul, norms, embedding, caches and attention."""

import models  # noqa: F401
import torch
import ttnn as vendor

import models.common.ttnn_emulator as emulator
from models.common.mesh import open_mesh
from tests.emulator.values_like_golden import correlation

HEADS, KV_HEADS, HEAD_DIM, PAGE = 8, 2, 96, 32


class Golden:
    """Runs an op on the emulator, and its golden function on the same torch tensors."""

    def __init__(self, device, dtype):
        self.device, self.dtype = device, dtype

    def random(self, *shape):
        return torch.randn(shape).to(self.dtype)

    def to_device(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        integers = not value.is_floating_point()
        layout = emulator.ROW_MAJOR_LAYOUT if integers else emulator.TILE_LAYOUT
        return emulator.from_torch(value, layout=layout, device=self.device)

    def compare(self, name, inputs, **keywords):
        """The correlation of op `name` with its golden function."""
        own, theirs = emulator, vendor
        for part in name.split("."):
            own, theirs = getattr(own, part), getattr(theirs, part)
        expected = vendor.get_golden_function(theirs)(*[_copied(value) for value in inputs], **keywords)
        tensors = [self.to_device(value) for value in inputs]
        on_device = {key: self.to_device(value) for key, value in keywords.items()}
        actual = emulator.to_torch(own(*tensors, **on_device))
        return correlation(actual, expected.view(actual.shape))


def _copied(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def matmuls(golden):
    for rows, inner, columns in ((32, 3072, 9216), (1, 512, 2304), (128, 1024, 512)):
        a, b = golden.random(1, 1, rows, inner), golden.random(1, 1, inner, columns)
        yield f"linear {rows}x{inner}x{columns}", golden.compare("linear", [a, b])
        bias = golden.random(1, 1, 1, columns)
        yield f"linear with bias and silu {rows}", golden.compare("linear", [a, b], bias=bias, activation="silu")
    a, b = golden.random(2, 3, 32, 64), golden.random(2, 3, 64, 96)
    yield "matmul in batches", golden.compare("matmul", [a, b])
    yield "matmul of a transposed", golden.compare("matmul", [golden.random(64, 32), golden.random(64, 96)], transpose_a=True)


def norms(golden):
    for rows, width in ((32, 3072), (1, 512), (17, 96)):
        x, weight = golden.random(1, 1, rows, width), golden.random(1, 1, 1, width)
        yield f"rms_norm {rows}x{width}", golden.compare("rms_norm", [x], epsilon=1e-5, weight=weight)
        yield f"layer_norm {rows}x{width}", golden.compare("layer_norm", [x], epsilon=1e-5, weight=weight)
    x, residual = golden.random(1, 1, 32, 512), golden.random(1, 1, 32, 512)
    yield "rms_norm of a sum", golden.compare("rms_norm", [x], epsilon=1e-5, residual_input_tensor=residual)


def embeddings(golden):
    table = golden.random(4096, 512).bfloat16()
    ids = torch.randint(0, 4096, (1, 32))
    actual = emulator.embedding(
        emulator.from_torch(ids, dtype=emulator.uint32, device=golden.device), golden.to_device(table)
    )
    expected = vendor.get_golden_function(vendor.embedding)(ids, table)
    yield "embedding", correlation(emulator.to_torch(actual), expected)


def caches(golden):
    cache, rows = golden.random(4, KV_HEADS, 128, HEAD_DIM), golden.random(1, KV_HEADS, 64, HEAD_DIM)
    yield "fill_cache", golden.compare("fill_cache", [cache, rows, 2])
    yield "fill_cache further on", golden.compare("fill_cache", [cache, rows, 2], update_idx=64)
    yield "update_cache", golden.compare("update_cache", [cache, golden.random(1, KV_HEADS, 4, HEAD_DIM), 77])


def attentions(golden):
    name = "transformer.scaled_dot_product_attention"
    for kv_heads in (KV_HEADS, HEADS):
        q = golden.random(1, HEADS, 640, HEAD_DIM)
        k, v = golden.random(1, kv_heads, 640, HEAD_DIM), golden.random(1, kv_heads, 640, HEAD_DIM)
        yield f"attention {kv_heads}", golden.compare(name, [q, k, v], is_causal=True)
        yield f"attention {kv_heads} scaled", golden.compare(name, [q, k, v], is_causal=True, scale=0.3)
        yield f"attention {kv_heads} in a window", golden.compare(name, [q, k, v], is_causal=True, sliding_window_size=100)
        yield f"attention {kv_heads} both ways", golden.compare(name, [q, k, v], is_causal=False)
        mask = torch.zeros(1, 1, 640, 640).masked_fill(torch.rand(1, 1, 640, 640) < 0.3, -1e9).to(golden.dtype)
        yield f"attention {kv_heads} masked", golden.compare(name, [q, k, v], is_causal=False, attn_mask=mask)
        yield from paged_attentions(golden, kv_heads)


def paged_attentions(golden, kv_heads):
    pages = 3 * 16
    table = torch.randperm(pages).view(3, 16).to(torch.int32)
    k, v = golden.random(pages, kv_heads, PAGE, HEAD_DIM), golden.random(pages, kv_heads, PAGE, HEAD_DIM)
    positions = torch.tensor([0, 100, 511], dtype=torch.int32)
    q = golden.random(1, 3, HEADS, HEAD_DIM)
    name = "transformer.paged_scaled_dot_product_attention_decode"
    inputs = [q, k, v, table]
    yield f"paged decode {kv_heads}", golden.compare(name, inputs, cur_pos_tensor=positions)
    yield f"paged decode {kv_heads} in a window", golden.compare(name, inputs, cur_pos_tensor=positions, sliding_window_size=40)
    k, v = golden.random(3, kv_heads, 512, HEAD_DIM), golden.random(3, kv_heads, 512, HEAD_DIM)
    name = "transformer.scaled_dot_product_attention_decode"
    yield f"decode {kv_heads}", golden.compare(name, [q, k, v], cur_pos_tensor=positions, scale=0.2)
    name = "transformer.chunked_scaled_dot_product_attention"
    chunk = golden.random(1, HEADS, 128, HEAD_DIM)
    for start in (0, 256, 384):
        inputs = [chunk, *[golden.random(pages, kv_heads, PAGE, HEAD_DIM) for _ in "kv"], table[:1]]
        yield f"chunk at {start} {kv_heads}", golden.compare(name, inputs, chunk_start_idx=start)


def main():
    torch.manual_seed(0)
    with open_mesh():
        device = emulator.open_mesh_device(emulator.MeshShape(1, 1))
        for dtype in (torch.bfloat16, torch.float32):
            golden = Golden(device, dtype)
            groups = [matmuls, norms, embeddings, caches]
            # A card's attention does not accept fp32.
            if dtype is torch.bfloat16:
                groups.append(attentions)
            for group in groups:
                for name, value in group(golden):
                    print(name, str(dtype).removeprefix("torch."), value, sep="\t")


if __name__ == "__main__":
    main()
