"""Scan files to rows: what a folder holds, which series make scans, and a reason for everything else."""
