"""The ops, one module per kind."""
