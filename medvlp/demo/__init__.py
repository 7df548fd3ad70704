"""`medvlp demo`: the whole way on a synthetic hospital."""
