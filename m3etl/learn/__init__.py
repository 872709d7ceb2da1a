"""Loader, dataset, encoder, MP-MAE, training and evaluation."""
