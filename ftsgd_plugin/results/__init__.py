"""After training: from run records to tables, figures and a report."""
