"""GreenCache: carbon-aware KV-cache storage for LLM serving.

Importing this package loads nothing heavy; each part is imported by its own name:
``greencache.tiers`` (where blocks live), ``greencache.traces`` (what was recorded),
``greencache.controller`` (what decides), ``greencache.bench`` (replay and reports).
"""

from greencache import version

__version__ = version.VERSION

__all__ = ["__version__"]
