"""Lectures: several recognisers, levels of a procedure, its order, wrong captions."""
