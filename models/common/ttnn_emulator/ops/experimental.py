"""The ops of `ttnn.experimental`: splitting and joining heads, rotary embedding, paged cache updates."""

from . import heads, paged_cache, rotary

__all__ = ["heads", "paged_cache", "rotary"]
