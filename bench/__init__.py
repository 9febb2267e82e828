"""The replay engine, its accounting and its reports.

====================  ================================================================
``engine``            a continuous-batching engine over the real index, compiled
``simulation``        runs the engine on a trace and reads its results
``accounting``        energy and carbon of a run
``replay``            plans side by side: what ``greencache replay`` does
``results``           the JSON of a replay
``table``, ``report`` the same for people: a terminal table, an HTML page with plots
``curve``             what ``greencache curve`` does
``replay_speed``      a benchmark: block accesses a second, beside other LRUs (``baselines``)
``scaling``           its stream that grows; ``two_tiers``, ``plain_lru``: what it serves
====================  ================================================================
"""
