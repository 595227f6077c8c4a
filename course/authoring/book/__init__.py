"""The book: the stored notebooks as pages that anybody opens, with a search, and without a network.

`pages` makes of each stored notebook what Sphinx is to read, `extension` is what Sphinx learns for
this book, `conf` its settings, `words` what it says itself, `static/` and `templates/` what a
browser gets; `making` puts both editions together. Sphinx is in an environment of its own
(requirements-book.txt), so nothing here imports what only the course's environment has.
"""
