"""The site: its data, its keys, its privacy budget, and its private training."""
