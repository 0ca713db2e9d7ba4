"""Lua execution sessions in a child process (contract 07, design D14)."""
