"""Checkpoint of the vindex package."""
