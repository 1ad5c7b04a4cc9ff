"""Tuning: which values are tried next, the trials, and the file of values that were chosen.

The command line asks for a schedule of trials; engines execute them as they execute runs.
"""
