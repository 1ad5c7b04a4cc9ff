"""From text to values: method expressions, plugin files, and errors with their place in a YAML file.

Everything that reads what a user wrote asks here.
"""
