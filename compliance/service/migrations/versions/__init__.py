"""One file a revision: `NNNN_topic.py`. CONTRIBUTING.md says how the next one is written."""
