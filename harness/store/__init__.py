"""Stores runs on disk: the run folder, checkpoint, progress file and outcome, and the claim of the process at work.

Files are written atomically. A reader sees a whole file or no file.
"""
