"""The lockstep backend. `paired_ttnn` is the `ttnn` it gives; importing that changes the emulator's Tensor for good."""
