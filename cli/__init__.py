"""The commands of the front door, `shardscope.py`, by what they are for. Each imports what it needs when it runs."""
