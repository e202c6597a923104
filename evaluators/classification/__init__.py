"""Texts with labels: what sequence classifiers, encoders among them, are judged by."""
