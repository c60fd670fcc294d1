"""Asks the Hugging Face hub about models and data sets."""
