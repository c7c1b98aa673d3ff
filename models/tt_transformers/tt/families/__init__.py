"""The families of models that run here, one file each. A family is added by its file and its name in this list."""

from collections.abc import Mapping
from types import MappingProxyType

from models.tt_transformers.tt.families.family import Family
from models.tt_transformers.tt.families.llama import LLAMA
from models.tt_transformers.tt.families.mistral import MISTRAL
from models.tt_transformers.tt.families.mllama import MLLAMA
from models.tt_transformers.tt.families.phi3 import PHI3
from models.tt_transformers.tt.families.qwen2 import QWEN2
from models.tt_transformers.tt.families.qwen3 import QWEN3

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.architecture: family for family in (LLAMA, MISTRAL, MLLAMA, PHI3, QWEN2, QWEN3)}
)
