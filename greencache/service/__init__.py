"""The daemon: one store for all engines of a host, with its controller and its metrics."""
