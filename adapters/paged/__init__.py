"""What connectors of engines with paged KV share: vLLM's, and whoever keeps KV in blocks as it does.

======================  ==========================================================
``planning``            in the scheduler: what to load and what to save
``transfers``, ``pages``  in each worker: the copies
``jobs``                what both tell each other
``names``               keys of blocks
``attach``              getting to the daemon, or starting one
``telling``             what became of requests, for the controller
``statistics``          what is counted
======================  ==========================================================

Nothing here imports an engine, or anything heavy.
"""
