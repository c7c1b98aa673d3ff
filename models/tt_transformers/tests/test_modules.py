"""Every module against Hugging Face's, at the widths of Phi-3-mini, on each mesh and in each precision.

One layer with random weights; the reference computes in float32 with the same bf16 weights.
"""

import copy
import functools
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import ttnn

from models.common.mesh import open_mesh
from models.common.mesh_names import LINES
from models.common.pcc import pcc
from models.tt_transformers.tt.checkpoints.cache import WeightCache
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.config.precision import ModelOptimizations, TensorGroup
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.modules.ccl import make_ccl
from models.tt_transformers.tt.modules.decoder import Decoder
from models.tt_transformers.tt.modules.embedding import Embedding, RotaryEmbedding
from models.tt_transformers.tt.modules.lm_head import LMHead, LMHeadConfig
from models.tt_transformers.tt.runtime.decode_step import host_tensor
from models.tt_transformers.tt.runtime.kv_cache import make_kv_caches
from models.tt_transformers.tt.runtime.page_table import PageTable
from tests.support.wide import some_of

MODEL = "microsoft/Phi-3-mini-128k-instruct"
MAX_SEQ_LEN = 256
PREFILL = 128
# In a batch the first two users come from prefills, the others begin with the decoded token.
PREFILLED = (PREFILL, 45)
# bf16 keeps 8 bits of each value, bfp8 keeps 7 relative to a block's largest value, bfp4 keeps 3. An MLP with normally
# distributed weights loses more than 0.01 by storage in bfp4 alone; see `Reference.least_pcc`.
LEAST_PCC = {"bf16": 0.999, "performance": 0.99, "accuracy": 0.99}


class Reference:
    """Hugging Face's model of one layer, in float32 and with the exact weights."""

    def __init__(self, model):
        self.model = model.model
        self.lm_head = model.lm_head
        self.layer = model.model.layers[0]
        self._stored = {}

    def attention(self, x):
        return self.run(self.layer.self_attn, x)

    def decoder(self, x):
        return self.run(self.layer, x)

    @functools.cache
    def decoded(self, module):
        """The output of `module`, "attention" or "decoder", for the last row of each of `batch(32)`: [32, dim]."""
        return torch.stack([getattr(self, module)(sequence)[-1] for sequence in batch(32)])

    @torch.no_grad()
    def run(self, module, x):
        """One sequence [seq_len, dim], causal."""
        angles = self.model.rotary_emb(x[None], torch.arange(len(x))[None])
        mask = torch.full((len(x), len(x)), float("-inf")).triu(1)[None, None]
        out = module(hidden_states=x[None], position_embeddings=angles, attention_mask=mask)
        return (out[0] if isinstance(out, tuple) else out).reshape(x.shape)

    @torch.no_grad()
    def least_pcc(self, precision, run):
        """The PCC that `run`(layer) must reach in this precision. It is LEAST_PCC, or, if that is lower, the PCC of
        Hugging Face's own layer with weights stored in the mode's formats, less 0.001 for the activations' formats."""
        if precision != "performance":
            return LEAST_PCC[precision]
        if precision not in self._stored:
            self._stored[precision] = _with_stored_weights(self.layer, getattr(ModelOptimizations, precision)().layer)
        return min(LEAST_PCC[precision], pcc(run(self._stored[precision]), run(self.layer)) - 0.001)


@torch.no_grad()
def _with_stored_weights(layer, precision):
    layer = copy.deepcopy(layer)
    for module, group in (
        (layer.self_attn.qkv_proj, TensorGroup.WQKV),
        (layer.self_attn.o_proj, TensorGroup.WO),
        (layer.mlp.gate_up_proj, TensorGroup.FF1_FF3),
        (layer.mlp.down_proj, TensorGroup.FF2),
    ):
        # Blocks lie along the outputs, as on the device.
        stored = ttnn.from_torch(module.weight.t().contiguous(), dtype=precision.dtype(group), layout=ttnn.TILE_LAYOUT)
        module.weight.copy_(ttnn.to_torch(stored).t())
    return layer


@pytest.fixture(scope="module")
def reference():
    with open_mesh("N150") as mesh_device:
        args = ModelArgs(mesh_device, hf_model=MODEL, dummy_weights=True, num_layers=1)
        return Reference(args.reference_transformer(dtype=torch.float32))


class MemoryCache(WeightCache):
    """Keeps converted weights in memory, so that modules for 1 and for 32 users share them."""

    def __init__(self):
        super().__init__(None, {})
        self._hosts = {}

    def load(self, conversion):
        return self._hosts.get(conversion.name)

    def convert(self, conversion, weight):
        host = self._hosts[conversion.name] = super().convert(conversion, weight)
        return host


SETUPS = some_of(
    ["-".join(setup) for setup in product(LINES, LEAST_PCC)],
    "N150-bf16", "N150-performance", "N150-accuracy", "N300-performance", "T3K-accuracy",
)  # fmt: skip


@pytest.fixture(scope="module", params=SETUPS)
def setup(request):
    """`.users(n)`: decoder, caches and so on for a batch of n, on the mesh and in the precision of the parameter."""
    mesh_name, precision = request.param.split("-")
    with open_mesh(mesh_name) as mesh_device:
        cache, made = MemoryCache(), {}

        def users(count):
            if count not in made:
                made[count] = _build(mesh_device, precision, count, cache)
            return made[count]

        yield SimpleNamespace(users=users, mesh=mesh_device, precision=precision, least_pcc=LEAST_PCC[precision])


def _build(mesh_device, precision, users, cache):
    args = ModelArgs(
        mesh_device,
        max_batch_size=users,
        max_seq_len=MAX_SEQ_LEN,
        hf_model=MODEL,
        dummy_weights=True,
        num_layers=1,
        optimizations=getattr(ModelOptimizations, precision)(),
        page_params={"block_size": 32, "max_num_blocks": users * MAX_SEQ_LEN // 32},
    )
    weights = Weights(mesh_device, args.placement, args.load_state_dict(), cache)
    ccl = make_ccl(args.placement, weights.constants, users)
    lm_head = LMHeadConfig.resolve(args)
    modules = SimpleNamespace(
        args=args,
        decoder=Decoder(args, weights, 0, ccl),
        embedding=Embedding(weights.embedding()),
        lm_head=LMHead(lm_head, weights, ccl),
        lm_head_config=lm_head,
        rotary=RotaryEmbedding(args.arch.rope, MAX_SEQ_LEN, users, args.chip, weights.constants),
    )
    weights.load()
    return modules


def split(x, mesh_device, memory_config=ttnn.DRAM_MEMORY_CONFIG):
    """[rows, dim] -> the residual stream, [1, 1, rows, dim / N] on each device."""
    mapper = ttnn.ShardTensorToMesh(mesh_device, dim=3)
    return _send(x[None, None], mesh_device, mapper, memory_config)


def replicate(x, mesh_device, memory_config=ttnn.DRAM_MEMORY_CONFIG):
    return _send(x[None, None], mesh_device, ttnn.ReplicateTensorToMesh(mesh_device), memory_config)


def _send(x, mesh_device, mapper, memory_config):
    return ttnn.from_torch(
        x, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=mesh_device, memory_config=memory_config, mesh_mapper=mapper
    )


def joined(x, mesh_device):
    """The columns of all devices side by side: [rows, dim] float32."""
    return ttnn.to_torch(x, mesh_composer=ttnn.ConcatMeshToTensor(mesh_device, dim=3))[0, 0].float()


def first_device(x):
    return ttnn.to_torch(ttnn.get_device_tensors(x)[0])[0, 0].float()


def random_rows(rows, width=3072, seed=0):
    # Exact in bf16, so that both sides start from the same values.
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def batch(users):
    """Each user's sequence, of which the last row is decoded: [length + 1, dim], different lengths first."""
    lengths = (*PREFILLED, *[0] * 30)[:users]
    return [random_rows(length + 1, seed=user) for user, length in enumerate(lengths)]


def prefill_arguments(model, mesh_device, page_table, user, length):
    pages = None if page_table is None else page_table.table[user : user + 1, : page_table.config.blocks_for(length)]
    table = None if pages is None else ttnn.to_device(host_tensor(pages, ttnn.int32, model.args), mesh_device)
    rows = list(range(length))
    rotate = model.rotary.prefill(ttnn.to_device(host_tensor([rows], ttnn.uint32, model.args), mesh_device))
    return rotate, table


def decode_arguments(model, mesh_device, positions, page_table):
    def send(values, dtype):
        return ttnn.to_device(host_tensor(values, dtype, model.args), mesh_device)

    table = None if page_table is None else send(page_table.table, ttnn.int32)
    return model.rotary.decode(send([positions], ttnn.uint32)), send(positions, ttnn.int32), table


def after_prefills(setup, users, paged, prefill):
    """The rows to decode, [users, dim], and the other arguments of `decode_forward`.

    `prefill(x, rotate, cache, user, table)` fills the cache for the users that come from prefills.
    """
    model, sequences = setup.users(users), batch(users)
    cache, pages = make_cache(model, users, paged)
    for user, length in enumerate(PREFILLED[:users]):
        rotate, table = prefill_arguments(model, setup.mesh, pages, user, PREFILL)
        prefill(torch.cat([sequences[user][:-1], torch.zeros(PREFILL - length, 3072)]), rotate, cache, user, table)
    positions = [len(sequence) - 1 for sequence in sequences]
    rotate, positions, table = decode_arguments(model, setup.mesh, positions, pages)
    return torch.stack([sequence[-1] for sequence in sequences]), (rotate, cache, positions, table)


def assert_follows(y, expected, least_pcc, pcc):
    """Compares users with a prefill and users without one separately: one key, as the latter have, hides errors."""
    for kind in (slice(0, len(PREFILLED)), slice(len(PREFILLED), None)):
        if len(y[kind]):
            assert pcc(y[kind], expected[kind]) >= least_pcc


def make_cache(model, users, paged):
    args = copy.copy(model.args)
    if not paged:
        args.paged_attention_config = None
        return make_kv_caches(args)[0], None
    table = PageTable(args.paged_attention_config, users, MAX_SEQ_LEN)
    for user in range(users):
        table.grow(user, MAX_SEQ_LEN)
    return make_kv_caches(args)[0], table


def test_embedding_gives_the_rows_of_the_table(setup, reference):
    tokens = torch.randint(0, 32064, (1, 128), generator=torch.Generator().manual_seed(1))
    model = setup.users(1)
    x = model.embedding.forward(
        ttnn.to_device(host_tensor(tokens, ttnn.uint32, model.args), setup.mesh), ttnn.DRAM_MEMORY_CONFIG
    )
    assert torch.equal(joined(x, setup.mesh), reference.model.embed_tokens(tokens)[0])


@pytest.mark.parametrize("rows", [1, 32])
def test_norm_in_decode_follows_hugging_face(setup, reference, rows, recorded_pcc):
    x = random_rows(rows)
    y = setup.users(1).decoder.attention_norm.decode_forward(split(x, setup.mesh, ttnn.L1_MEMORY_CONFIG))
    assert recorded_pcc(first_device(y), reference.layer.input_layernorm(x)) >= 0.9999


def test_norm_in_prefill_follows_hugging_face(setup, reference, recorded_pcc):
    x = random_rows(PREFILL)
    y = setup.users(1).decoder.ffn_norm.prefill_forward(split(x, setup.mesh))
    assert recorded_pcc(first_device(y), reference.layer.post_attention_layernorm(x)) >= 0.9999


def test_mlp_in_prefill_follows_hugging_face(setup, reference, recorded_pcc):
    x = random_rows(PREFILL)
    y = setup.users(1).decoder.mlp.prefill_forward(replicate(x, setup.mesh))
    least_pcc = reference.least_pcc(setup.precision, lambda layer: layer.mlp(x))
    assert recorded_pcc(joined(y, setup.mesh), reference.layer.mlp(x)) >= least_pcc


@pytest.mark.parametrize("users", [1, 32])
def test_mlp_in_decode_follows_hugging_face(setup, reference, users, recorded_pcc):
    x, mlp = random_rows(users), setup.users(users).decoder.mlp
    sharded = mlp.config.ff1_3.chip.width_sharded(3072, mlp.config.ff1_3.cores)
    y = mlp.decode_forward(replicate(x, setup.mesh, sharded))
    least_pcc = reference.least_pcc(setup.precision, lambda layer: layer.mlp(x))
    assert recorded_pcc(joined(y, setup.mesh), reference.layer.mlp(x)) >= least_pcc


@pytest.mark.parametrize("paged", [True, False], ids=["paged", "unpaged"])
def test_attention_in_prefill_follows_hugging_face(setup, reference, paged, recorded_pcc):
    x, model = random_rows(PREFILL), setup.users(1)
    cache, pages = make_cache(model, 1, paged)
    rotate, table = prefill_arguments(model, setup.mesh, pages, 0, PREFILL)
    y = model.decoder.attention.prefill_forward(replicate(x, setup.mesh), rotate, cache, [0], table, table, 0)
    assert recorded_pcc(joined(y, setup.mesh), reference.attention(x)) >= setup.least_pcc


@pytest.mark.parametrize("paged", [True, False], ids=["paged", "unpaged"])
@pytest.mark.parametrize("users", [1, 32])
def test_attention_in_decode_follows_hugging_face(setup, reference, users, paged, recorded_pcc):
    attention = setup.users(users).decoder.attention

    def prefill(x, rotate, cache, user, table):
        attention.prefill_forward(replicate(x, setup.mesh), rotate, cache, [user], table, table, 0)

    x, arguments = after_prefills(setup, users, paged, prefill)
    sharded = attention.config.wqkv.chip.width_sharded(3072, attention.config.wqkv.cores)
    y = attention.decode_forward(replicate(x, setup.mesh, sharded), *arguments)
    assert_follows(joined(y, setup.mesh), reference.decoded("attention")[:users], setup.least_pcc, recorded_pcc)


@pytest.mark.parametrize("paged", [True, False], ids=["paged", "unpaged"])
@pytest.mark.parametrize("users", [1, 32])
def test_decoder_in_decode_follows_hugging_face(setup, reference, users, paged, recorded_pcc):
    decoder = setup.users(users).decoder

    def prefill(x, rotate, cache, user, table):
        decoder.prefill_forward(split(x, setup.mesh), rotate, cache, [user], table, table, 0)

    x, arguments = after_prefills(setup, users, paged, prefill)
    y = decoder.decode_forward(split(x, setup.mesh, ttnn.L1_MEMORY_CONFIG), *arguments)
    least_pcc = reference.least_pcc(setup.precision, lambda layer: reference.run(layer, batch(1)[0])[-1])
    assert_follows(joined(y, setup.mesh), reference.decoded("decoder")[:users], least_pcc, recorded_pcc)


def test_decoder_in_prefill_follows_hugging_face(setup, reference, recorded_pcc):
    x, model = random_rows(PREFILL), setup.users(1)
    cache, pages = make_cache(model, 1, paged=True)
    rotate, table = prefill_arguments(model, setup.mesh, pages, 0, PREFILL)
    y = model.decoder.prefill_forward(split(x, setup.mesh), rotate, cache, [0], table, table, 0)
    least_pcc = reference.least_pcc(setup.precision, lambda layer: reference.run(layer, x))
    assert recorded_pcc(joined(y, setup.mesh), reference.decoder(x)) >= least_pcc


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 32])
def test_lm_head_follows_hugging_face(setup, reference, rows, recorded_pcc):
    x, model = random_rows(rows), setup.users(1)
    first = model.lm_head_config.splits[0]
    logits = model.lm_head.decode_forward(replicate(x, setup.mesh, first.chip.width_sharded(3072, first.cores)))
    assert recorded_pcc(joined(logits, setup.mesh)[:, :32064], reference.lm_head(x)) >= setup.least_pcc
