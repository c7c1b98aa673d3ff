"""The PNG of a prediction: a bar of where a decode step's time goes, and a roofline of its ops and a prompt's."""

import io
from pathlib import Path

from models.common import whole_file
from models.common.prediction.forecast import Forecast
from models.common.prediction.ops import Ops, by_kind

# After the ten colours of matplotlib's cycle.
_MORE = ("gold", "navy", "lightgreen", "salmon", "black", "tan")


def write(path: Path, forecast: Forecast, title: str) -> None:
    """Raises OSError if the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle(title, fontsize=9, wrap=True)
    bar, roofline = figure.subplots(1, 2, width_ratios=(1, 1.6))
    _bar(bar, forecast)
    _roofline(roofline, forecast)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110, metadata={"Software": None})
    whole_file.write(path, image.getvalue())


def _bar(axes, forecast: Forecast) -> None:
    step = forecast.decode_step
    parts = [(row["kind"], row["seconds"]) for row in by_kind(forecast.decode.rows())]
    bottom = 0
    for index, (name, seconds) in enumerate([*parts, ("gaps between ops", step.gaps), ("host", step.host)]):
        label = f"{name}: {seconds * 1e3:.2f} ms"
        axes.bar(
            "decode step",
            seconds * 1e3,
            bottom=bottom * 1e3,
            width=0.5,
            label=label,
            color=f"C{index}" if index < 10 else _MORE[(index - 10) % len(_MORE)],
        )
        bottom += seconds
    axes.set_ylabel("predicted ms")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=7, loc="upper right")
    axes.set_xlim(-0.4, 1.6)


def _roofline(axes, forecast: Forecast) -> None:
    speed = forecast.card.speed
    intensities = [2.0**power for power in range(-2, 13)]
    for fidelity in ("LoFi", "HiFi2", "HiFi4"):
        axes.plot(
            intensities,
            [min(x * speed.dram_bytes_s, speed.flops(fidelity)) / 1e12 for x in intensities],
            "--",
            lw=1,
            label=f"peak at {fidelity}",
        )
    for name, ops, marker in (("decode", forecast.decode, "o"), ("prefill", forecast.prefill, "s")):
        points = [(row["flops"] / row["dram_bytes"], row["flops"] / row["seconds"] / 1e12) for row in _with_flops(ops)]
        if points:
            axes.scatter(*zip(*points), s=18, marker=marker, alpha=0.7, label=f"ops of a {name}, predicted")
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte of DRAM", ylabel="TFLOP/s of a chip")
    axes.legend(fontsize=7)


def _with_flops(ops: Ops) -> list[dict]:
    return [row for row in ops.rows() if row["flops"] and row["dram_bytes"]]
