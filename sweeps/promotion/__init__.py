"""Promotion: evidence, gate, registration, rollback."""
