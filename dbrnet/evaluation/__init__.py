"""Evaluation: pixel and defect metrics, their intervals, parity of runtimes, and the comparison with the champion."""
