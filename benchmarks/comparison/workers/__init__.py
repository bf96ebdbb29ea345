"""Programs that time one code each, in whatever Python has it.

They import numpy, ase and that code, and nothing of Tesseral (but for `run_tesseral.py`, of course); `protocol.py` says
how they are told what to do and what they answer.
"""
