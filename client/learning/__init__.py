"""Private learning in plain torch: models, subject-level DP-SGD, accounting and metrics."""
