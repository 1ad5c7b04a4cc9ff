"""What is reported about runs: their mirror in MLflow, their status, the progress display and system metrics.

The command line opens a mirror and a display. Everything is read from run folders, which stay the truth.
"""
