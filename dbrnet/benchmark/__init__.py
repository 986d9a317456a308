"""Benchmark: latency and throughput of a trained network on this machine, and its roofline."""
