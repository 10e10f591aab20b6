"""The semantic cache: answers to questions asked before, served only while everything they rest on is unchanged."""
