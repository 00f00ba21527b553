"""Figures of a run for people's tools: written beside the run, read by nobody here."""
