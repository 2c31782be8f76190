"""Pages to look with: report.html of a trained run, and the search page over an index."""
