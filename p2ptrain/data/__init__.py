"""Rows of text from files and datasets: found, opened, decoded and counted. Nothing is left out without being counted.

`files` and `library` find the files, `opening` and `formats` say what is in them, `rows` reads them, `cells` says what
is text, and `tally` counts the rest. `Table` has random access to its rows, `Stream` deals them out to each peer.
"""
