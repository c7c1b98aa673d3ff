"""The families of models that run here, one file each. A family is added by its file and its name in this list."""

from collections.abc import Mapping
from types import MappingProxyType

from models.tt_transformers.tt.families.family import Family
from models.tt_transformers.tt.families.phi3 import PHI3

FAMILIES: Mapping[str, Family] = MappingProxyType({family.architecture: family for family in (PHI3,)})
