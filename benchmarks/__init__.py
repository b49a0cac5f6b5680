"""What it costs, against what you would use instead. Run with ``python -m benchmarks``; gates nothing."""
