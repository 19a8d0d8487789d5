"""The contracts that every other part stands on. Modules here import nothing else of `clouds`."""
