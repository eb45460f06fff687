"""Analyses without training: the paper's Figures 1 and 7, its cost formulas, Table 3, any network by layers."""
