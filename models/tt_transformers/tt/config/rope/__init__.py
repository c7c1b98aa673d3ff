"""Rotary position embeddings (RoPE): a class per kind, one factory, cos and sin tables for `rotary_embedding_llama`.

Every kind has the interface of `DefaultRope`. Rows of its tables are in the interleaved order: the pair of columns
(2i, 2i+1) shares the frequency i. The rows of wq and wk are permuted to the same order on load (`state_dict.py`).

Source of RoPE: Su et al. 2021 (arXiv:2104.09864). Formulas, defaults and limits are those of Hugging Face's
`modeling_rope_utils`.
"""

from collections.abc import Mapping

from models.tt_transformers.tt.config.rope.base import DefaultRope
from models.tt_transformers.tt.config.rope.by_length import DynamicRope, LongRope
from models.tt_transformers.tt.config.rope.fixed import LinearRope, Llama3Rope, YarnRope
from models.tt_transformers.tt.config.rope.parameters import checked, original_len, rope_parameters
from models.tt_transformers.tt.families.family import Family

KINDS = {rope.kind: rope for rope in (DefaultRope, LinearRope, DynamicRope, Llama3Rope, YarnRope, LongRope)}
# Keys that parameters of every kind may have.
COMMON_KEYS = frozenset({"rope_type", "rope_theta", "partial_rotary_factor"})


def make_rope(config: Mapping, family: Family, *, head_dim: int, max_position_embeddings: int) -> DefaultRope:
    """The RoPE that a Hugging Face `config.json` of a family describes; see `rope_parameters` for its forms.

    Raises ValueError for a kind or a key that is not supported, for a missing key, and for values that do not fit the
    model.
    """
    given, _ = rope_parameters(config, family.rope_aliases)
    kind = given["rope_type"]
    supported = KINDS if family.rope_kinds is None else family.rope_kinds
    if kind not in supported:
        names = ", ".join([*supported, *family.rope_aliases])
        raise ValueError(f"RoPE type {kind!r} is not supported; supported are {names} for {family.architecture}")
    partial = given.get("partial_rotary_factor", 1.0)
    if partial != 1.0 and not family.partial_rotation:
        raise ValueError(
            f"partial_rotary_factor {partial} is not supported: {family.architecture} rotates whole heads, 1.0"
        )

    rope = KINDS[kind]
    wanted = rope.parameters()
    if unknown := sorted(set(given) - COMMON_KEYS - set(wanted)):
        raise ValueError(f"RoPE type {kind!r} has keys that are not supported: {', '.join(unknown)}")
    if "original_max_position_embeddings" in wanted:
        default = family.defaults.get("original_max_position_embeddings")
        given["original_max_position_embeddings"] = original_len(config, given, default, max_position_embeddings)
    if missing := [name for name, (_, is_required) in wanted.items() if is_required and name not in given]:
        raise ValueError(f"RoPE type {kind!r} needs {', '.join(missing)}")
    return rope(
        head_dim=head_dim,
        theta=checked(kind, "rope_theta", given.get("rope_theta", family.defaults.get("rope_theta", 10000.0)), float),
        max_position_embeddings=max_position_embeddings,
        partial_rotary_factor=checked(kind, "partial_rotary_factor", partial, float),
        recomputes_keys=family.recomputes_keys,
        **{name: checked(kind, name, given[name], type_) for name, (type_, _) in wanted.items() if name in given},
    )
