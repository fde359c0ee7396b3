"""What only the book's pages need. Nothing else of the module uses it.

``chapter`` is what all chapters share: scales, checks, tables, verdicts. ``figures`` is their one look, ``exercises``
tells right answers from wrong ones, ``playground`` shows the interactive figure, and ``claims`` is the table of the
paper's statements.
"""
