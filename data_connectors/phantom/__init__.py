"""A synthetic hospital with known truth: pictures, reports, lectures, identifiers."""
