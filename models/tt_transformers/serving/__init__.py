"""Serving through vLLM: the entry points, and a platform of our own for machines without the vendor's plugin."""
