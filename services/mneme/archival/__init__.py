"""Archival memory: passages without limit in number, owned by agents or by knowledge bases that agents share."""
