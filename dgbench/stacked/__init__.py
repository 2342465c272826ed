"""Stacked trials: runs that differ in seeds and numbers, trained as one model.

``plan`` says which runs may be stacked, ``training`` trains and records them, ``model`` and
``adam`` are the stacked module and its optimiser, of use without Lightning too.
"""
