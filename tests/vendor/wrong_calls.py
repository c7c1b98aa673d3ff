"""Runs calls that a card refuses in lockstep. Prints the outcome of each as JSON in the last line.

    TT_BACKEND=lockstep MESH_DEVICE=N300 PYTHONPATH=. python tests/vendor/wrong_calls.py
"""

import gc
import json

from models.common.mesh import open_mesh
from tests.vendor import wrong_attention_calls, wrong_op_calls  # noqa: F401
from tests.vendor.wrong_call_tools import CASES, Maker

try:
    from ttnn import LockstepError
except ImportError:  # on the emulator, where the test only reads the names of the cases
    LockstepError = None


def main():
    outcomes = {}
    with open_mesh() as mesh_device:
        make = Maker(mesh_device)
        for what, call in CASES.items():
            try:
                call(make)
                outcomes[what] = "both accept it"
            except LockstepError as error:
                outcomes[what] = f"they disagree: {error}"
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                outcomes[what] = f"both refuse it; the emulator: {error}"
            # The output of a wrongly accepted call must be freed before the next case.
            gc.collect()
    # On a line of its own: the vendor's package logs to the same stream.
    print("\n" + json.dumps(outcomes))


if __name__ == "__main__":
    main()
