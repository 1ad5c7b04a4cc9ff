"""Parses what users write: method expressions, plugin files, and YAML files whose errors name line and location.

Everything that reads user input uses this package.
"""
