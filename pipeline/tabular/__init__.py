"""How files of other programs are read, wherever Lakescore reads them: CSV, JSON lines and Parquet, as one relation.

    sources -> delimited, jsonlines

An import, labels, training rows, golden examples and `lakescore score` all go through `sources`: one set of rules.
"""
