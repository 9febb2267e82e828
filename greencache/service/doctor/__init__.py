"""``greencache doctor``: what this machine offers, and what is wrong.

Each check is a function that returns findings; none changes anything.
"""
