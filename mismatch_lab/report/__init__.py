"""The report of a run: one HTML file that opens offline.

`run_files` reads a run, `text` and `numbers` put values into words, `edges`, `tokens`, `series` and
`figures` prepare one part of the page each, `page` gathers them, `report` renders and writes.
Templates, styles and the script lie in `reports/`.
"""
