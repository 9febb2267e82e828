"""Experiments with the controller: written down as TOML files, run, checked and reported.

``python -m greencache.bench.experiments NAME`` runs one, ``… report DIR...`` writes the tables and
plots of docs/results.md. See `greencache.bench.experiments.spec` for what a file says.
"""
