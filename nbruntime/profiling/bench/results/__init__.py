"""What a load test found: figures, verdicts, and the answer in words."""
