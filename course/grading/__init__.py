"""Marking a class: what is handed in is a stranger's program, and runs in a closed room."""
