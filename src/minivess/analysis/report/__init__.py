"""The report: its sections, figures, methods and limitations."""
