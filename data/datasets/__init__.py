"""Datasets, one file each: where they come from, how they are read, and what they are tested against.

The registry loads them by name.
"""
