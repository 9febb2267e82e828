"""The replay engine, its accounting and its reports.

=======================  =============================================================
``engine``               a continuous-batching engine over the real index, compiled
``occupancy``            what its requests hold in the tiers
``cluster``              several engines behind a router that knows prefixes
``simulation``           runs them on a trace and reads the results
``saturation``           the highest load that they keep up with
``workload``             how much to ask of them, and how long to warm up
``scenario``             from what users say to something to run
``simulated``            the engine under every plan
``accounting``           energy and carbon of a run
``replay``               both together: what ``greencache replay`` does
``results``              the JSON of a replay
``table``, ``report``    the same for people: a terminal table, an HTML page with plots
``curve``                what ``greencache curve`` does
``workload_statistics``  a composed stream beside its sources, in figures
``workloads``            the same as a table; a benchmark that composes a day of each
``replay_speed``         a benchmark: block accesses a second, beside other LRUs
``published``            a check: measurements of real engines, beside the simulated one
=======================  =============================================================
"""
