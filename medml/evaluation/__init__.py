"""Evaluation: one table of cases first; averages, intervals, subgroups, reports and gates derive from it."""
