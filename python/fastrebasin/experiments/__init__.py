"""The paper's models, pairs of data sets and recipes, as configuration over the library."""
