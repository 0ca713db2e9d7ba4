"""The place of Lua execution sessions, each in a child process of its own (contract 07, design D14): still empty."""
