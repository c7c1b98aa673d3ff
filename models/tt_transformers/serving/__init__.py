"""Serving through vLLM: the entry points, and a platform of our own for machines without the vendor's plugin."""

# Tokens in a page of the KV caches where the user names no size. vLLM's own, 16, is less than a tile.
BLOCK_SIZE = 64
