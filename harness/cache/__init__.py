"""The user's cache: results of long checks, kept by the content of what was checked.

Any room may ask it. It imports nothing of the project, so that commands which find an answer here start at once.
"""
