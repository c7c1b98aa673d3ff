"""Reads the keys of a `config.json` with a family's defaults."""

from collections.abc import Mapping


class Reader:
    """Calling it with a key gives the key's value, or its default. ValueError if there is neither."""

    def __init__(self, config: Mapping, defaults: Mapping):
        self._config, self._defaults = config, defaults

    def __call__(self, key: str):
        if key in self._config:
            return self._config[key]
        if key in self._defaults:
            return self._defaults[key]
        raise ValueError(f"config.json has no {key!r}")

    def integer(self, key: str) -> int:
        value = self(key)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ValueError(f"config.json: {key} must be a positive integer, got {value!r}")
        return value

    def boolean(self, key: str) -> bool:
        value = self(key)
        if type(value) is not bool:
            raise ValueError(f"config.json: {key} must be true or false, got {value!r}")
        return value


def language_config(config: Mapping) -> Mapping:
    """The language model's keys of a `config.json`: those under `text_config`, if it has that, else its own."""
    return config.get("text_config") or config


def nested(config: Mapping, key: str) -> Mapping:
    """The object that `config.json` has under `key`; an empty one if it leaves the key out. ValueError for another value."""
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"config.json: {key} must be an object, got {value!r}")
    return value
