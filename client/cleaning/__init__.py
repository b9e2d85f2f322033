"""Cleaning of records before they are de-identified: steps that an operator declares."""
