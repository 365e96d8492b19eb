"""After training: from run records to tables, figures and a report."""

# Formats of the tables: name -> suffix of the file. Here, because the help of a tool imports no more than this.
FORMATS = {'text': 'txt', 'markdown': 'md', 'latex': 'tex', 'csv': 'csv'}
