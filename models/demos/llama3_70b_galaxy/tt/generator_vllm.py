"""The class that vLLM serves where TT_LLAMA_TEXT_VER is `llama3_70b_galaxy`: a Llama on a Galaxy.

It is the common class, which takes the Galaxy's layout from the mesh, but for the lanes of the server: they are the
columns of devices of one model, which have pools of pages of their own. On other meshes it is refused, so that a server
that was meant for a Galaxy does not run elsewhere unnoticed.
"""

from models.tt_transformers.tt import generator_vllm


class LlamaForCausalLM(generator_vllm.LlamaForCausalLM):
    @classmethod
    def initialize_vllm_model(cls, hf_config, mesh_device, *args, **kwargs):
        """As the common class. Raises ValueError for a mesh that is not 8x4."""
        rows, columns = tuple(mesh_device.shape)
        if {rows, columns} != {8, 4}:
            raise ValueError(
                f"TT_LLAMA_TEXT_VER=llama3_70b_galaxy needs a Galaxy (MESH_DEVICE=TG), this mesh is {rows}x{columns}; "
                "unset it for other meshes"
            )
        return super().initialize_vllm_model(hf_config, mesh_device, *args, **kwargs)

    @classmethod
    def groups_of_devices(cls, mesh_device, lanes: int) -> int:
        """One group: the columns of devices are the lanes. ValueError for another number of lanes."""
        if lanes not in (1, mesh_device.shape[1]):
            raise ValueError(f"tt_data_parallel {lanes}: the lanes are the {mesh_device.shape[1]} columns of devices")
        return 1
