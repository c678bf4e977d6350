"""Searches over trainings: short ones say which networks deserve a long one."""
