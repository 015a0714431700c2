"""Imports without the parts that slotctl never uses: TLS for asyncio, GLib for the D-Bus library: a tenth of its start.

Both libraries do without when they cannot import them.
"""

from __future__ import annotations

import sys
from importlib import import_module


def import_without(name: str, *unwanted: str) -> None:
    """Imports a module while others cannot be imported; those that are loaded already, stay."""
    hidden = [each for each in unwanted if each not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how the import system says "not there"
    try:
        import_module(name)
    finally:
        for each in hidden:
            del sys.modules[each]
