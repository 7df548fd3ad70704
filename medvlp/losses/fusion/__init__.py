"""Texts and patches read together: matching, masked modelling, order of clips."""
