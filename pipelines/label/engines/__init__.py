"""Labelling on Ray Data: the dataset, the actors that hold a teacher each, and what actors share about the health of engines."""
