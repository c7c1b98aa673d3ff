"""As `specs_like_vendor.py`, for calls on a mesh of eight chips: collectives, mappers and composers."""

import torch

import models  # noqa: F401
from tests.emulator import argument_calls
from tests.emulator.specs_like_vendor import Setting, compare


class MeshSetting(Setting):
    """Setting with more tensors, for calls on a mesh."""

    def __init__(self, tt, device):
        super().__init__(tt, device)
        self.part = self.new([1, 1, 32, 384])
        self.odd = self.new([1, 2, 8, 8])
        self.qkv = self.new([1, 1, 32, 768], config=self.sharded("WIDTH", (32, 96), 8))
        self.semaphore = tt.create_global_semaphore(device, self.cores(8, 8), 0)
        self.numbers = torch.arange(2 * 8 * 64).reshape(1, 2, 8, 64).float()

    def parts(self, width=768, cores=8, dtype="bfloat16"):
        """Room for the parts of eight devices, each `width` columns."""
        return self.new([1, 1, 32, 8 * width], dtype, config=self.sharded("WIDTH", (32, 8 * width // cores), cores))

    def first(self, *shape, dtype="int32"):
        return self.new(list(shape) or [1, 1], dtype, "ROW_MAJOR")

    def gamma(self, width, dtype="bfloat16", layout="ROW_MAJOR"):
        shape = [1, 1, width // 32, 32] if layout == "ROW_MAJOR" else [1, 1, 1, width]
        return self.new(shape, dtype, layout)

    def sums(self, dtype="bfloat16", config=None):
        return self.new([1, 1, 32, 256], dtype, config=config or self.sharded("WIDTH", (32, 256), 1))

    def norm(self, width=3, **more):
        options = dict(compute_with_storage_grid_size=(8, 4), subblock_w=1, block_h=1, block_w=width, inplace=False)
        return self.tt.LayerNormShardedMultiCoreProgramConfig(**{**options, **more})

    @property
    def accumulate(self):
        return self.tt.WormholeComputeKernelConfig(math_fidelity=self.tt.MathFidelity.HiFi4, fp32_dest_acc_en=True)

    def split(self, *arguments):
        """A host tensor divided over the mesh: along one dimension, or by (mesh shape, dims)."""
        tt = self.tt
        mapper = tt.ShardTensorToMesh if len(arguments) == 1 else tt.ShardTensor2dMesh
        return tt.from_torch(self.numbers, mesh_mapper=mapper(self.device, *arguments))

    def join(self, tensor, *arguments):
        tt = self.tt
        composer = tt.ConcatMeshToTensor if len(arguments) == 1 else tt.ConcatMesh2dToTensor
        return tt.to_torch(tensor, mesh_composer=composer(self.device, *arguments))

    def replicated(self):
        return self.tt.from_torch(self.numbers, mesh_mapper=self.tt.ReplicateTensorToMesh(self.device))


CALLS = """
tt.all_reduce(s.x, cluster_axis=1, topology=tt.Topology.Linear)
tt.all_reduce(s.x)
tt.all_reduce(s.x, cluster_axis=0)
tt.all_reduce(s.x, cluster_axis=3)
tt.all_reduce(s.x, bogus=1)
tt.all_reduce(s.w, cluster_axis=1)
tt.all_reduce(s.w, cluster_axis=1, memory_config=s.L1)
tt.all_reduce(s.b8, cluster_axis=1)
tt.all_reduce(s.odd, cluster_axis=1, num_links=1)
tt.all_reduce(s.rm, cluster_axis=1)
tt.all_reduce(s.freed(), cluster_axis=1)
tt.reduce_scatter(s.x, dim=3, cluster_axis=1)
tt.reduce_scatter(s.x, 3, cluster_axis=1, memory_config=s.L1)
tt.reduce_scatter(s.w, dim=3, cluster_axis=1, memory_config=s.L1)
tt.reduce_scatter(s.w, dim=3, cluster_axis=1)
tt.reduce_scatter(s.x, dim=2, cluster_axis=1)
tt.reduce_scatter(s.x, dim=1, cluster_axis=1)
tt.reduce_scatter(s.x, dim=5, cluster_axis=1)
tt.reduce_scatter(s.rm, dim=3, cluster_axis=1)
tt.reduce_scatter(s.b8x, dim=3, cluster_axis=1)
tt.all_gather(s.part, dim=3, cluster_axis=1, topology=tt.Topology.Linear)
tt.all_gather(s.part, dim=-1)
tt.all_gather(s.part, dim=2, cluster_axis=1)
tt.all_gather(s.odd, dim=3, cluster_axis=1)
tt.all_gather(s.part, dim=3, cluster_axis=0)
tt.all_gather(s.part, dim=3, cluster_axis=2)
tt.all_gather(s.part, dim=4)
tt.all_gather(s.w, dim=3, cluster_axis=1, memory_config=s.L1)
tt.all_gather(s.w, dim=3, cluster_axis=1)
tt.all_gather(s.b8, dim=3, cluster_axis=1)
tt.all_gather(s.i, dim=3, cluster_axis=1)
tt.to_device(s.split(3), s.device)
s.split(5)
s.split((2, 4), (1, 3))
s.split((1, 8), (None, 3))
tt.to_torch(s.split(3))
tt.to_torch(s.x)
s.join(s.split(3), 0).shape
s.join(s.split(3), 3).equal(s.numbers)
s.join(s.split((2, 4), (2, 3)), (2, 4), (2, 3)).equal(s.numbers)
s.join(s.split((2, 4), (2, 3)), (2, 4), (2, 2))
s.join(s.split((2, 4), (None, 3)), (2, 4), (0, 3))[1].equal(s.numbers[0])
tt.to_torch(tt.get_device_tensors(s.split(3))[2]).equal(s.numbers[..., 16:24])
len(tt.get_device_tensors(tt.from_torch(s.numbers)))
len(tt.get_device_tensors(tt.from_torch(s.numbers, device=s.device)))
len(tt.get_device_tensors(tt.from_device(s.x)))
len(tt.get_device_tensors(s.replicated()))
tt.copy_host_to_device_tensor(s.host([1, 1, 32, 3072]), s.x)
repr(tt.ShardTensorToMesh(s.device, dim=3).config())
s.device.get_num_devices()
list(s.device.shape)
s.device.compute_with_storage_grid_size()
s.device.dram_grid_size()
s.device.core_grid
[mesh.get_num_devices() for mesh in s.device.create_submeshes(tt.MeshShape(1, 2))]
s.device.create_submeshes(tt.MeshShape(1, 3))
tt.open_mesh_device(tt.MeshShape(5, 8))
""".strip().splitlines()


if __name__ == "__main__":
    compare(MeshSetting, [*CALLS, *argument_calls.MESH_CALLS])
