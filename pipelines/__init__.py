"""Flows, tasks, the command line and the servers; the only package that knows Prefect."""
