"""Configurations of the networks and the schedule, and the files that hold them."""
