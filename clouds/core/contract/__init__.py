"""The contract of components: what they declare, how they are found, planned and checked, and what they exchange."""
