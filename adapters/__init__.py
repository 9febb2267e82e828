"""How GreenCache meets what it did not write: services, meters and engines.

======================  ==========================================================
``intensity``           the grid's carbon intensity, from files and HTTP services
``energy``              joules, from the GPUs' and CPUs' meters or from Prometheus
``engine_metrics``      what an engine says of itself on its Prometheus page
``live_window``         all of it together: one telemetry window an interval
``web``                 HTTP with limits
``paged``               what connectors of engines with paged KV share
``vllm``                the connector that vLLM loads
======================  ==========================================================

Nothing here raises into the control loop: what fails is logged once (logger
``greencache.adapters``), counted by its kind, and made up for as docs/providers.md says.
"""
