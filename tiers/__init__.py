"""Where blocks live: the index of a tier, its eviction policies, and the directory of keys.

====================  ===========================================================
``state``             the arrays of one tier's index, allocated and grown
``candidates``        the blocks that may be evicted now: an indexed heap
``reuse``             how soon blocks of a class are asked for again, learned from requests
``worth``             hazard of reuse, and what keeping a block is worth by it
``policies``          which candidate goes first: lru, lfu, gdsf, sieve, lcs, carbon
``admission``         what to store on SSD, by its worth against the wear of writing
``transactions``      match, touch, reserve, commit, abort, lease, resize: compiled
``learning``          what a cache learns from requests, for all of its tiers
``forgetting``        forgetting blocks that no tier has
``kernels``           the same for a whole request, to be called from Python
``index``             ``TierIndex``, the face of it all for Python
``directory``         ``KeyDirectory``: 16-byte block keys to the ids the index works on
====================  ===========================================================

Nothing of this does I/O or reads a clock: time is an argument. The replay and the live store run
the same compiled functions on the same arrays. What moves bytes stands on it:

====================  ===========================================================
``base``              ``Tier``, the contract of all tiers
``slots``             what tiers share whose blocks stand in slots
``backing``           which slots have memory or disk behind them
``workers``           work in threads that ends before whoever waits for it
``memory``            how much memory is available
``syscalls``          calls of Linux that Python has none for
``dram``              ``DramTier``: the host's memory
``ssd``               ``SsdTier``: extent files, a manifest, warm restart
``cache``             ``TieredCache``: tiers as one cache
``cache_lease``       ``CacheLease``, ``CacheReservation``: what a request found and takes
``rules``             what decides in a cache, and the cache made by it
``behind``            writes to SSD behind the engine
``promotion``         what is on SSD alone gets into DRAM
====================  ===========================================================
"""

from greencache.tiers.admission import Admission
from greencache.tiers.base import Shareable, Tier, TierLease, TierReservation, TierStats
from greencache.tiers.cache import TieredCache
from greencache.tiers.cache_lease import CacheLease, CacheReservation
from greencache.tiers.cache_stats import CacheStats
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.dram import DramTier
from greencache.tiers.index import Lease, Reservation, TierIndex
from greencache.tiers.policies import Policy
from greencache.tiers.ssd import SsdTier

__all__ = [
    "Admission",
    "CacheLease",
    "CacheReservation",
    "CacheStats",
    "DramTier",
    "KeyDirectory",
    "Lease",
    "Policy",
    "Reservation",
    "Shareable",
    "SsdTier",
    "Tier",
    "TierIndex",
    "TierLease",
    "TierReservation",
    "TierStats",
    "TieredCache",
]
