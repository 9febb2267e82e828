"""The replay engine, its accounting and its reports.

=======================  ======================================================
"""
