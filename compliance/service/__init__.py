"""The compliance service: HTTP and SQL around `compliance.rules`. Nobody imports it but the CLI."""
