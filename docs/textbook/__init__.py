"""The forms in which textbooks and articles give these algorithms, in plain PyTorch.

They are for reading beside burnish's own, and for its tests: `tests/textbook` shows where the two are equal, to the
gradient, and by numbers worked by hand where the short form says something else. Nothing in burnish imports them.

Legend: B rows, T tokens, V vocabulary, D hidden, P pairs, r rank. Rows are padded on the right.
"""
