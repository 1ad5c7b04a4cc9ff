"""The user's cache: plans of studies and lists, so that commands which only read need neither torch nor MLflow.

Any room may use it. It imports nothing of the project.
"""
