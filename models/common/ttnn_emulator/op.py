"""How an op is declared, and what happens when it is called.

An op is a function with the `op` decorator, which takes the public name. The function's signature is the op's
signature (`declaration` explains its annotations), and every call is checked against it. The function validates
everything that a signature cannot express. It returns the `Program` to run, or a result that needs no program:

    @op("ttnn.square_sum")
    def square_sum(
        input_tensor: Tensor, *, memory_config: MemoryConfig = None, sub_core_grids: NoEffect[CoreRangeSet] = None
    ) -> Tensor:
        \"\"\"The sum of squares along the last dimension.\"\"\"
        shape = (*tuple(input_tensor.shape)[:-1], 1)
        spec = TensorSpec(shape, input_tensor.dtype, input_tensor.layout, memory_config)
        return Program(lambda x: x.float().square().sum(-1, keepdim=True), [input_tensor], spec)

Nothing else has to be written: errors get the op's name, and the op log gets all arguments. `ttnn` has the ops of the
package's `_OP_MODULES`. For a new one, the tests compare the signature with the vendor's, and ask for a call in
`tests/emulator/argument_calls.py`, which they make on both sides.
"""

import functools

from .declaration import Declaration
from .program import Program, run

# Public dotted name -> op.
REGISTRY = {}
# The same for functions that are not ops, such as those for meshes, traces and queues. They are declared the same way.
FUNCTIONS = {}


def op(*names: str, registry: dict = REGISTRY):
    """Declares a function as an op with the public dotted `names`. Errors and the op log use the first name.

    The op's `overload` decorator declares another function for other arguments of the same op, like the vendor's
    overloads. A call runs the first function that accepts its arguments. `forms` holds all declarations.
    """

    def declare(function):
        call = _calling(names[0], function)
        for name in names:
            registry[name] = call
        return call

    return declare


def _calling(name: str, function):
    forms = [Declaration(function)]

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            for form in forms:
                if form.misfit(args, kwargs) is None:
                    break
            else:
                raise _refusal(forms, args, kwargs)
            result = form.function(*args, **kwargs)
            if type(result) is not Program:
                return result
            return run(name, result, form, args, kwargs)
        except Exception as error:
            name_in(error, name)
            raise

    def overload(function):
        forms.append(Declaration(function))
        return call

    call.python_fully_qualified_name, call.forms, call.overload = name, forms, overload
    return call


def _refusal(forms, args, kwargs) -> Exception:
    misfits = [form.misfit(args, kwargs) for form in forms]
    if len(misfits) == 1:
        return misfits[0]
    kind = NotImplementedError if any(isinstance(misfit, NotImplementedError) for misfit in misfits) else TypeError
    told = [f"as ({', '.join(form.signature.parameters)}): {misfit}" for form, misfit in zip(forms, misfits)]
    return kind("; ".join(told))


def name_in(error: Exception, name: str) -> None:
    """Puts the op's name in front of an error's message."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{name}: {error.args[0]}",)
