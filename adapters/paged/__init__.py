"""What connectors of engines share that keep KV in blocks, as vLLM does.

======================  ==========================================================
``planning``            in the scheduler: what to load and what to save
``transfers``, ``pages``  in each worker: the copies
``jobs``                what both tell each other
``names``               keys of blocks
``attach``              getting to the daemon, or starting one
``telling``             what became of requests, for the controller
``statistics``          what is counted
``versions``            which versions of an engine are supported
======================  ==========================================================

Nothing here imports an engine, or anything heavy.
"""
