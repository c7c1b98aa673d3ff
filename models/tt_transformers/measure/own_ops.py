"""The op lists of this project's own code, from its log: the model runs shape-only, from its config.json alone."""

from contextlib import ExitStack
from dataclasses import dataclass

from models.common import op_costs
from models.common.mesh import open_mesh, without_values
from models.common.mesh_names import MESHES, mesh_name_of
from models.common.prediction.card import Card
from models.common.prediction.forecast import Forecast
from models.tt_transformers.demo.prediction import forecast_of_logs
from models.tt_transformers.measure import capacity
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime.kv_cache import make_kv_caches


@dataclass(frozen=True)
class OwnOps:
    """Logs (`oplog.OpRecord`s) of a decode step and of a prefill of all users, and the DRAM that they needed.

    weights, kv_cache, activations, capacity: bytes of one device; see `capacity.Usage`.
    """

    args: ModelArgs
    decode: list
    prefill: list
    weights: int
    kv_cache: int
    activations: int
    capacity: int


def record(mesh_name: str, *, prompt: int, **settings) -> OwnOps:
    """Runs a prefill of `prompt` tokens for each user and a decode step, shape-only.

    `settings`: arguments of `ModelArgs`. Memory is not limited, so that a model that does not fit can be predicted too.
    """
    with ExitStack() as stack:
        stack.enter_context(without_values())
        mesh_device = stack.enter_context(open_mesh(mesh_name))
        allocator, before = mesh_device.allocator, capacity.allocated_bytes(mesh_device)
        available = capacity.dram_capacity(mesh_device)
        allocator.capacity[capacity.DRAM] = 1 << 60
        args = ModelArgs(mesh_device, dummy_weights=True, **settings)
        kv_caches = make_kv_caches(args, capacity.allocate)
        with_caches = capacity.allocated_bytes(mesh_device)
        with Generator.build(args, capacity.AllocatedWeights(args), kv_caches) as generator:
            laid_out = capacity.allocated_bytes(mesh_device)
            start = allocator.peak[capacity.DRAM] = allocator.used[capacity.DRAM]
            with op_costs.recording() as prefill:
                generator.prefill([[0] * prompt] * args.max_batch_size)
            with op_costs.recording() as decode:
                generator.runner.compile_decode(generator.pages, trace=False)
            activations = (allocator.peak[capacity.DRAM] - start) * allocator.banks[capacity.DRAM]
        return OwnOps(args, decode, prefill, laid_out - with_caches, with_caches - before, activations, available)


def mesh_of(card: Card) -> str:
    """The mesh that has as many chips of the same kind as a replica's card. ValueError if none has."""
    chip = MESHES[card.name].chip
    name = mesh_name_of(card.shape, chip)
    if name not in MESHES:
        raise ValueError(f"a replica of {card.chips} chips of {card.name}: no mesh has so many")
    return name


def own_forecast(ops: OwnOps, card: Card, context: float, replicas: int = 1) -> Forecast:
    """The forecast of logged ops; `context`: tokens that a decode step attends to."""
    return forecast_of_logs(
        ops.args, ops.decode, ops.prefill, card, context, prompts=ops.args.max_batch_size, replicas=replicas
    )
