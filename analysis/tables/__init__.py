"""Writes tables as text, Markdown, CSV and LaTeX."""
