"""Energy-based world models: prepare data, train, evaluate, think, scale."""

__version__ = "0.1.0"
