"""What there is: methods, models, datasets and studies, described in a few lines each.

Only `econ list` asks for it.
"""

WIDTH = 100
"""The most characters a line of the list of methods has."""
