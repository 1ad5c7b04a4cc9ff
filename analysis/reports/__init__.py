"""Builds the report of a study: one self-contained web page of tables and figures."""
