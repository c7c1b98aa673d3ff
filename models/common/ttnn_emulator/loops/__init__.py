"""Compiled loops, each for a computation that would take torch many passes over the data.

They read and write bf16 as bit patterns (int16) and compute in fp32. The result of a row (a user, a head) does not
depend on the number of other rows.

A change in any file of this folder makes all compiled loops on disk invalid (`compiled.py`), because loops of one file
call those of others.
"""
