"""The operations, one module per noun: each reads facts, asks a rule, changes state, records."""
