"""The decode step on the devices: compiled once, captured as a trace if the device can, replayed for every token."""

import torch
import ttnn

from models.common import backend
from models.tt_transformers.tt.runtime import images

SKIP = -1  # the position of a user that does not run


class DecodeStep:
    """The compiled decode step: inputs at fixed places on the devices, a trace that reads them, and its `logits`.

    `page_table`, int32 [rows, pages] (None: unpaged), stays on the devices until a step brings another one; so do `keys`,
    what the users attend to of their images (None: a model without images).
    Without `trace`, or if the device has no traces (the vendor's mock), each step runs the model's Python code.
    """

    def __init__(self, model, page_table: torch.Tensor | None, trace: bool, keys: images.ImageKeys | None = None):
        self.model = model
        self.mesh_device = model.mesh_device
        self._inputs = idle_decode_inputs(model, page_table)
        self._images = images.decode_inputs(model.args, keys)
        self._pages_on_device = None if page_table is None else page_table.clone()
        self._trace = None
        self.logits = self._forward()
        if trace and backend.supports_trace():
            self._trace = ttnn.begin_trace_capture(self.mesh_device, cq_id=0)
            self.logits = self._forward()
            ttnn.end_trace_capture(self.mesh_device, self._trace, cq_id=0)

    def submit(
        self, tokens: list[int], positions: list[int], rotary_rows: list[int], page_table: torch.Tensor | None, keys=None
    ) -> None:
        """Runs the step and overwrites `logits`; nothing moves from the devices to the host."""
        for host, device in zip(self._host_inputs(tokens, positions, rotary_rows, page_table), self._inputs):
            if host is not None:
                ttnn.copy_host_to_device_tensor(host, device)
        self._images.update(keys)
        if self._trace is None:
            self.logits = self._forward()
        else:
            ttnn.execute_trace(self.mesh_device, self._trace, cq_id=0, blocking=False)

    def _forward(self):
        return self.model.decode_forward(*self._inputs, images=self._images.images)

    def release(self) -> None:
        if self._trace is not None:
            ttnn.release_trace(self.mesh_device, self._trace)

    def _host_inputs(self, tokens, positions, rotary_rows, page_table):
        """As `decode_inputs`, but None for a page table that is on the devices already, as in most steps."""
        if page_table is not None:
            if torch.equal(page_table, self._pages_on_device):
                page_table = None
            else:
                self._pages_on_device.copy_(page_table)
        return decode_inputs(self.model.args, page_table, tokens, positions, rotary_rows)


def decode_inputs(args, page_table: torch.Tensor | None, tokens, positions, rotary_rows) -> list:
    """Host tensors in the order of `Transformer.decode_forward`; None for the page table of an unpaged cache.

    The arguments are of all `Placement.decode_rows`. Each device gets all tokens, and the rest for the users it serves.
    """
    return [
        host_tensor([tokens], ttnn.uint32, args),
        host_tensor(positions, ttnn.int32, args, users=0),
        host_tensor([rotary_rows], ttnn.uint32, args, users=1),
        None if page_table is None else host_tensor(page_table, ttnn.int32, args, users=0),
    ]


def idle_decode_inputs(model, page_table: torch.Tensor | None) -> list:
    """Device inputs of a decode step that skips every user, so that it changes no cache."""
    rows = model.args.placement.decode_rows(model.args.max_batch_size)
    hosts = decode_inputs(model.args, page_table, [0] * rows, [SKIP] * rows, [0] * rows)
    return [None if host is None else ttnn.to_device(host, model.mesh_device) for host in hosts]


def host_tensor(values, dtype, args, users: int | None = None):
    """Integers as a row-major host tensor; each device gets those of its users in dimension `users` (None: all)."""
    return ttnn.from_torch(
        torch.as_tensor(values, dtype=torch.int32),
        dtype=dtype,
        layout=ttnn.ROW_MAJOR_LAYOUT,
        mesh_mapper=args.placement.mapper(args.mesh_device, users=users),
    )
