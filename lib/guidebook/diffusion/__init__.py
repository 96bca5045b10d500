"""Objectives, solvers and ways to guide: functions of tensors."""
