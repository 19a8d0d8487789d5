"""Datasets: SPECs, typed label encodings, readers, checks, training views and weighted mixing."""
