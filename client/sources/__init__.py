"""Where a site's records come from: one module for each kind of source, behind one protocol."""

from client.sources.opening import open_source
from client.sources.source import Source

__all__ = ["Source", "open_source"]
