"""Ring or line: how collectives use the links of a machine whose rows and columns of chips are rings, a Galaxy.

`LINE_RS=1` makes the ops that add (reduce_scatter, all_reduce) treat the ring as a line. `LINE_AG=1` does it for the
ops that gather. The vendor's all_gather takes the topology of the fabric, which all ops share. So `LINE_AG=1` opens the
fabric as a line, and then there is no ring for the ops that add either.
"""

import os


def sums_in_line() -> bool:
    """Whether reduce_scatter and all_reduce use a line. ValueError for a value other than 0 and 1."""
    return _is_set("LINE_RS") or gathers_in_line()


def gathers_in_line() -> bool:
    """Whether the fabric is opened as a line. ValueError for settings that cannot be followed."""
    if os.environ.get("USE_LINE_AG"):
        raise ValueError(
            f"USE_LINE_AG={os.environ['USE_LINE_AG']!r}: single all_gathers cannot use a line, because the vendor's op takes "
            "the topology of the fabric; LINE_AG=1 makes all of them use a line"
        )
    line = _is_set("LINE_AG")
    if line and os.environ.get("LINE_RS") == "0":
        raise ValueError("LINE_AG=1 opens the fabric as a line, where LINE_RS=0 has no ring; unset LINE_RS, or set it to 1")
    return line


def _is_set(variable: str) -> bool:
    value = os.environ.get(variable, "0")
    if value not in ("0", "1"):
        raise ValueError(f"{variable}={value!r} is not accepted: 1 for a line, 0 for a ring")
    return value == "1"
