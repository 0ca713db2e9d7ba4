"""The user guide by topic, the glossary and the decisions, as Markdown files beside this module."""
