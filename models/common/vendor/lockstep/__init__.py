"""The lockstep backend. Its `ttnn` is `paired_ttnn`. Importing that permanently changes the emulator's Tensor."""
