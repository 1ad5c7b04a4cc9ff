"""A study: its YAML file, checked as a whole, and the cells and run specs that it comes to.

The files that come with the project lie here too, a folder for each paper.
"""
