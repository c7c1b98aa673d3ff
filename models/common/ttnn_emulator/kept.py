"""Tensors that keep their values in another form than torch's, and give torch a copy when it needs one."""

import torch
from torch.utils._pytree import tree_map_only


class KeptTensor(torch.Tensor):
    """To torch a tensor with a shape and a dtype. Any operator gets a copy of the values, which is not kept.

    An operator that would write to it raises RuntimeError.
    """

    __slots__ = ()
    form: str  # for messages

    def plain(self) -> torch.Tensor:
        """A copy as an ordinary tensor of the same shape and dtype."""
        raise NotImplementedError

    @classmethod
    def __torch_dispatch__(cls, operator, types, arguments=(), named=None):
        written = [a for a in operator._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        values = dict(zip((a.name for a in operator._schema.arguments), arguments)) | (named or {})
        for argument in written:
            value = values.get(argument.name)
            if isinstance(value, KeptTensor):
                raise RuntimeError(f"{operator} cannot write to a {value.form} {list(value.shape)}")
        arguments, named = tree_map_only(KeptTensor, lambda kept: kept.plain(), (arguments, named or {}))
        return operator(*arguments, **named)

    def __repr__(self):
        return f"{type(self).__name__}({list(self.shape)})"
