"""A report of runs and studies: one HTML page, tables for spreadsheets and for LaTeX."""
