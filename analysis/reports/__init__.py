"""The report of a study: one web page of tables and figures that needs nothing else."""
