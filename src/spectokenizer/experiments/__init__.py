"""Experiments: the same training for many variants of the codec, and one table of what came out. Used through `spectok experiment`.

trials.py    which variants, with which budget: data, no code that runs
claims.py    who works on which trial, over all machines
run.py       trains and measures them, side by side, each once
report.py    JSON, table and picture
"""
