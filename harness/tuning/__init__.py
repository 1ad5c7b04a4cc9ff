"""Tuning: chooses hyperparameters of methods on validation data, and keeps the chosen values in a file.

The command line asks for a schedule of trials. Engines execute trials in the same way as runs.
"""
