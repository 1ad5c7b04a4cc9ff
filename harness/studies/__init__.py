"""Reads a study's YAML file, checks it as a whole, and expands it into cells and run specs.

The studies that come with the project are stored here too, in one folder a paper.
"""
